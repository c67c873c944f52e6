//go:build unix && !linux

package inlet

import "golang.org/x/sys/unix"

// acceptFD accepts a connection, without waiting; EAGAIN: there is none.
func acceptFD(listening int) (fd int, from unix.Sockaddr, err error) {
	fd, from, err = unix.Accept(listening)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, from, err
}
