//go:build unix && !linux

package inlet

import (
	"time"

	"golang.org/x/sys/unix"
)

// acceptFD accepts a connection, without waiting; EAGAIN if there is none. The poller makes it
// one that does not block.
func acceptFD(listening int) (fd int, from unix.Sockaddr, err error) {
	fd, from, err = unix.Accept(listening)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, from, err
}

// keepAlive makes the connections of a listening socket find out that their peers
// are gone.
func keepAlive(listening int) error {
	return unix.SetsockoptInt(listening, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}

// nap would sleep without giving the processor to another goroutine; here it
// does nothing.
func nap(time.Duration) bool { return false }

// One system call receives one datagram.
const (
	packetBatch = 1
	packetRoom  = 512 << 10
)

// packets receives datagrams.
type packets struct {
	buf [packetRoom]byte
	n   int
	cut bool
}

func newPackets() (*packets, error) { return &packets{}, nil }

// recv receives a datagram of at most size bytes, without waiting, and returns how many: 1.
func (p *packets) recv(fd, size, _ int) (int, error) {
	n, _, flags, _, err := unix.Recvmsg(fd, p.buf[:size], nil, unix.MSG_DONTWAIT)
	p.n, p.cut = n, flags&unix.MSG_TRUNC != 0
	return 1, err
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
