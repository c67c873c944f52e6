//go:build unix && !linux

package sockets

import (
	"errors"

	"golang.org/x/sys/unix"
)

// Grow asks for a receive buffer of so many bytes and returns
// what was granted.
func Grow(fd, bytes int) (granted int, err error) {
	for ; bytes > 1<<16; bytes /= 2 { // too much is an error here
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes) == nil {
			break
		}
	}
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
}

// Drops is not known here.
func Drops(int) (uint64, error) { return 0, errors.ErrUnsupported }

// KeepAlive makes the connections of a listening socket find out that their peers
// are gone.
func KeepAlive(listening int) error {
	return unix.SetsockoptInt(listening, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}
