package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func (osFiles) nameless() (*os.File, error) {
	fd, err := unix.MemfdCreate("prefixproxy", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	return os.NewFile(uintptr(fd), "memory"), nil
}

func (osFiles) write(f *os.File, head, body []byte, offset int64) error {
	for {
		n, err := unix.Pwritev(int(f.Fd()), [][]byte{head, body}, offset)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err == nil && n < len(head)+len(body):
			err = unix.ENOSPC
		}
		return os.NewSyscallError("pwritev", err)
	}
}
