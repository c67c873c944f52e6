//go:build unix && !linux

package inlet

import "golang.org/x/sys/unix"

// packetBatch is how many datagrams one system call moves.
const packetBatch = 1

// maxPacket is the longest datagram that is read whole. UDP has none longer.
const maxPacket = 64 << 10

// packets receives datagrams.
type packets struct {
	buf []byte
	n   int
	cut bool
}

func newPackets() (*packets, error) {
	return &packets{buf: make([]byte, maxPacket)}, nil
}

// recv receives a datagram, without waiting, and returns how many: 1.
func (p *packets) recv(fd int) (int, error) {
	n, _, flags, _, err := unix.Recvmsg(fd, p.buf, nil, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, err
	}
	p.n, p.cut = n, flags&unix.MSG_TRUNC != 0
	return 1, nil
}

// packet returns the i-th datagram of the last recv, valid until the next, and
// how many bytes of its end were cut off: 1 where it isn't known.
func (p *packets) packet(int) (data []byte, lost int) {
	if p.cut {
		lost = 1
	}
	return p.buf[:p.n], lost
}

// peer returns the sender of the i-th datagram; here it is not known.
func (p *packets) peer(int) string { return "" }
