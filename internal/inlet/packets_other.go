//go:build unix && !linux

package inlet

import "golang.org/x/sys/unix"

// A shape is how the buffer for datagrams is divided.
type shape struct {
	slots int // how many datagrams one system call moves
	size  int // how much of each is read
}

// The shapes.
var (
	udpShape  = shape{1, 64 << 10}
	unixShape = shape{1, 512 << 10}
)

// packetBatch is how many datagrams one system call moves at most.
const packetBatch = 1

// packets receives datagrams.
type packets struct {
	buf []byte
	n   int
	cut bool
}

func newPackets() (*packets, error) { return &packets{}, nil }

// divide makes room.
func (p *packets) divide(s shape) {
	if len(p.buf) < s.size {
		p.buf = make([]byte, s.size)
	}
}

// recv receives a datagram, without waiting, and returns how many: 1.
func (p *packets) recv(fd, _ int) (int, error) {
	n, _, flags, _, err := unix.Recvmsg(fd, p.buf, nil, unix.MSG_DONTWAIT)
	if err != nil {
		return 0, err
	}
	p.n, p.cut = n, flags&unix.MSG_TRUNC != 0
	return 1, nil
}

// forget would give memory back.
func (p *packets) forget() {}

// packet returns the i-th datagram of the last recv, valid until the next one, and how many
// bytes were cut off its end: 1 where that isn't known.
func (p *packets) packet(int) (data []byte, lost int) {
	if p.cut {
		lost = 1
	}
	return p.buf[:p.n], lost
}

// peer returns the sender of the i-th datagram; here it is not known.
func (p *packets) peer(int) string { return "" }
