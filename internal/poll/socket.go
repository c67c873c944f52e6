package poll

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Detach takes the socket of conn away from the runtime's poller, closes conn, and
// returns its descriptor.
func Detach(conn Conn) (fd int, err error) {
	defer conn.Close()
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	if err := errors.Join(ctlErr, err); err != nil {
		return -1, err
	}
	return fd, unix.SetNonblock(fd, true)
}

// A Conn is an open socket: a net.Listener, a net.PacketConn, an os.File.
type Conn interface {
	syscall.Conn
	Close() error
}

// FD returns the descriptor, for the goroutine that owns the socket.
func (s *Socket) FD() int { return s.fd }

// Read is read(2): it doesn't wait, and its end is 0 bytes.
func (s *Socket) Read(b []byte) (int, error) {
	for {
		n, err := syscall.Read(s.fd, b)
		if !errors.Is(err, syscall.EINTR) {
			return n, err
		}
	}
}

// Use runs f on the descriptor, for others than the owner. A socket that is closed
// is net.ErrClosed.
func (s *Socket) Use(f func(fd int) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	return f(s.fd)
}

// Slots returns how many datagrams of so many bytes Packets receive at once.
func Slots(size int) int { return min(packetBatch, packetRoom/size) }

// HasInput says, without waiting, whether something has come that is not read yet.
func HasInput(fd int) bool { return has(fd, unix.POLLIN) }

// HasError says, without waiting, whether the socket fd has an error to tell.
func HasError(fd int) bool { return has(fd, 0) }

func has(fd int, events int16) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, 0)
	return n > 0
}
