//go:build unix && !linux

package poll

import "golang.org/x/sys/unix"

// One system call receives one datagram.
const (
	packetBatch = 1
	packetRoom  = 512 << 10
)

// Packets receive datagrams.
type Packets struct {
	buf [packetRoom]byte
	n   int
	cut bool
}

// Recv receives a datagram of at most size bytes from s, without waiting, and returns how many: 1.
func (p *Packets) Recv(s *Socket, size, _ int) (int, error) {
	n, _, flags, _, err := unix.Recvmsg(s.fd, p.buf[:size], nil, unix.MSG_DONTWAIT)
	p.n, p.cut = n, flags&unix.MSG_TRUNC != 0
	return 1, err
}

// Forget would give memory back.
func (p *Packets) Forget() {}

// Packet returns the i-th datagram of the last recv, valid until the next one, and how many
// bytes were cut off its end: 1 where that isn't known.
func (p *Packets) Packet(int) (data []byte, lost int) {
	if p.cut {
		lost = 1
	}
	return p.buf[:p.n], lost
}

// Peer returns the sender of the i-th datagram; here it is not known.
func (p *Packets) Peer(int) string { return "" }
