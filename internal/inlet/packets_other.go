//go:build unix && !linux

package inlet

import "golang.org/x/sys/unix"

// One system call receives one datagram.
const (
	packetBatch = 1
	packetRoom  = 512 << 10
)

// packets receives datagrams.
type packets struct {
	buf []byte
	n   int
	cut bool
}

func newPackets() (*packets, error) { return &packets{}, nil }

// divide makes room for datagrams of so many bytes.
func (p *packets) divide(size int) {
	if len(p.buf) < size {
		p.buf = make([]byte, size)
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
