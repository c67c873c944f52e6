//go:build unix && !linux

package proxy

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// growReceiveBuffer asks for a receive buffer of so many bytes and returns
// what was granted.
func growReceiveBuffer(fd, bytes int) (granted int, err error) {
	for ; bytes > 1<<16; bytes /= 2 { // too much is an error here
		if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes) == nil {
			break
		}
	}
	return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
}

// kernelDrops is not known here.
func kernelDrops(int) (uint64, error) { return 0, errors.ErrUnsupported }

// setUserTimeout is not to be had here.
func setUserTimeout(int, time.Duration) error { return errors.ErrUnsupported }

// unsent is not known here.
func unsent(int) (int, error) { return 0, errors.ErrUnsupported }

// limitUnsent is not to be had here.
func limitUnsent(int, int) error { return errors.ErrUnsupported }

// bytesAcked is not known here.
func bytesAcked(int) (uint64, error) { return 0, errors.ErrUnsupported }
