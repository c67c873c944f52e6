//go:build unix && !linux

package inlet

import (
	"time"

	"golang.org/x/sys/unix"
)

// acceptFD accepts a connection, without waiting; EAGAIN: there is none.
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
