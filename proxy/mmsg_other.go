//go:build unix && !linux

package proxy

import "golang.org/x/sys/unix"

// How many datagrams one call moves: here, one a system call.
const (
	recvBatch = 1
	sendBatch = 1
)

// maxPacket is the longest datagram that is read whole. UDP has none longer.
const maxPacket = 64 << 10

// recvPackets receives datagrams.
type recvPackets struct {
	buf []byte
	n   int
	cut bool
}

func newRecvPackets() (*recvPackets, error) {
	return &recvPackets{buf: make([]byte, maxPacket)}, nil
}

// recv receives a datagram, without waiting, and returns how many: 1.
func (p *recvPackets) recv(fd int) (int, error) {
	n, _, flags, _, err := unix.Recvmsg(fd, p.buf, nil, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, err
	}
	p.n, p.cut = n, flags&unix.MSG_TRUNC != 0
	return 1, nil
}

// packet returns the i-th datagram of the last recv, valid until the next, and
// whether its end was cut off.
func (p *recvPackets) packet(int) (data []byte, truncated bool) { return p.buf[:p.n], p.cut }

// peer returns the sender of the i-th datagram; here it is not known.
func (p *recvPackets) peer(int) string { return "" }
