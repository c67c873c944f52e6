package proxy

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// detach takes the socket of conn away from the runtime's poller, and closes
// conn.
func (p *poller) detach(conn syscall.Conn) (*socket, error) {
	fd, err := dup(conn)
	if closer, ok := conn.(interface{ Close() error }); ok {
		err = errors.Join(err, closer.Close())
	}
	if err != nil {
		return nil, err
	}
	return p.own(fd)
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

// use runs f on the descriptor, for others than the reader.
func (s *socket) use(f func(fd int) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return net.ErrClosed
	}
	return f(s.fd)
}
