//go:build unix

package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const directoryFlags = unix.O_RDONLY | unix.O_DIRECTORY

// openAt opens what is in d, and not what a link there leads to. It does not wait for
// the other end of a FIFO.
func (d *Dir) openAt(name string, flag int, perm fs.FileMode) (*os.File, error) {
	path := d.join(name)
	for {
		fd, err := unix.Openat(int(d.file.Fd()), name, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, uint32(perm.Perm()))
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENXIO): // a link; a FIFO without a reader, or a socket
			return nil, fmt.Errorf("%s: %w", path, ErrNotAFile)
		default:
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// Remove removes a file; of a link, the link.
func (d *Dir) Remove(name string) error {
	if err := unix.Unlinkat(int(d.file.Fd()), name, 0); err != nil {
		return &fs.PathError{Op: "remove", Path: d.join(name), Err: err}
	}
	return nil
}

// Rename gives a file another name, and replaces what had it.
func (d *Dir) Rename(from, to string) error {
	fd := int(d.file.Fd())
	if err := unix.Renameat(fd, from, fd, to); err != nil {
		return &os.LinkError{Op: "rename", Old: d.join(from), New: d.join(to), Err: err}
	}
	return nil
}

// reopen opens the directory at d's path, which is no link.
func (d *Dir) reopen() (*os.File, error) {
	return os.OpenFile(d.path, directoryFlags|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// names returns how many names a file has.
func names(info fs.FileInfo) uint64 { return uint64(info.Sys().(*syscall.Stat_t).Nlink) }

func checkDir(dir *os.File) error {
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return fmt.Errorf("%w (uid %d, and we are %d)", ErrNotOurs, owner, os.Geteuid())
	}
	if info.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%w (mode %#o)", ErrOpenToOthers, info.Mode().Perm())
	}
	return nil
}
