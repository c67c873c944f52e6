package poll

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// Detach takes the socket of conn away from the runtime's poller, and closes
// conn.
func (p *Poller) Detach(conn syscall.Conn) (*Socket, error) {
	fd, err := dup(conn)
	if closer, ok := conn.(interface{ Close() error }); ok {
		err = errors.Join(err, closer.Close())
	}
	if err != nil {
		return nil, err
	}
	return p.Own(fd)
}

// dup duplicates the descriptor of conn, which stays open.
func dup(conn syscall.Conn) (fd int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return -1, err
	}
	ctlErr := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) })
	return fd, errors.Join(err, ctlErr)
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

// HasInput says, without waiting, whether something has come that is not read yet.
func HasInput(fd int) bool {
	n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
	return n > 0
}
