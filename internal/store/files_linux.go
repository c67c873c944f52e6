package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// nameless returns a file in memory that disappears with the process.
func nameless() (*os.File, error) {
	fd, err := unix.MemfdCreate("prefixproxy", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "memory"), nil
}

// writeAt writes two pieces, one after the other.
func writeAt(f *os.File, head, body []byte, offset int64) (int, error) {
	for {
		n, err := unix.Pwritev(int(f.Fd()), [][]byte{head, body}, offset)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n < len(head)+len(body):
			err = unix.ENOSPC
		}
		return max(n, 0), os.NewSyscallError("pwritev", err)
	}
}
