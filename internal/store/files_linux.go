package store

import (
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
