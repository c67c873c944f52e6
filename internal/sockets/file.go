package sockets

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// A File is that of a unix socket which we have bound; the zero value is none.
type File struct {
	path string
	info os.FileInfo // as we made it
}

// bound returns the file of a socket that has just been bound, with the mode and the group of
// its address.
func bound(a address.Address) (f File, err error) {
	if f.info, err = os.Lstat(a.Path); err != nil {
		return f, err
	}
	f.path = a.Path
	if a.Group != "" {
		gid, err := groupID(a.Group)
		if err != nil {
			return f, err
		}
		if err := os.Chown(a.Path, -1, gid); err != nil {
			return f, err
		}
	}
	return f, os.Chmod(a.Path, os.FileMode(cmp.Or(a.Mode, 0o660)))
}

func groupID(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// IsLost says whether the file is gone, or has been replaced. While the socket is open, no
// other file can have its inode.
func (f File) IsLost() bool {
	if f.path == "" {
		return false
	}
	now, err := os.Lstat(f.path)
	return err != nil || !os.SameFile(now, f.info)
}

// Remove removes the file, unless it is lost.
func (f File) Remove() {
	if f.path != "" && !f.IsLost() {
		os.Remove(f.path)
	}
}

// removeStale removes a socket that a dead process left behind. One on which somebody listens
// stays, and is an error.
func removeStale(a address.Address) error {
	info, err := os.Lstat(a.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", a.Path)
	}
	conn, err := net.Dial(a.Network, a.Path)
	switch {
	case err == nil:
		conn.Close()
		fallthrough
	case errors.Is(err, syscall.EPROTOTYPE), errors.Is(err, syscall.EAGAIN): // of another kind; with a backlog that is full
		return fmt.Errorf("%s: %w", a.Path, syscall.EADDRINUSE)
	case errors.Is(err, syscall.ECONNREFUSED):
		err = os.Remove(a.Path)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s is another user's socket: %w", a.Path, err)
	}
	return err
}
