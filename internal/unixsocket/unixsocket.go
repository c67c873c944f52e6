// Package unixsocket looks after the files of unix sockets that we bind: they take the
// place of what dead processes left behind, and go with us, but nobody else's do.
//
// Not promised: anything against who may write to the directory, and does so at the same
// moment.
package unixsocket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// A File is that of a socket which we have bound; the zero value is none.
type File struct {
	path string
	info os.FileInfo // as we made it
}

// Bound returns the file of a socket that has just been bound at path. It must not be
// removed on close.
func Bound(path string) (File, error) {
	info, err := os.Lstat(path)
	return File{path, info}, err
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

// RemoveStale removes a socket that a dead process left behind. One on which
// somebody listens stays, and is an error.
func RemoveStale(network, path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", path)
	}
	conn, err := net.Dial(network, path)
	switch {
	case err == nil:
		conn.Close()
		fallthrough
	case errors.Is(err, syscall.EPROTOTYPE), errors.Is(err, syscall.EAGAIN): // of another kind; with a backlog that is full
		return fmt.Errorf("%s: %w", path, syscall.EADDRINUSE)
	case errors.Is(err, syscall.ECONNREFUSED):
		err = os.Remove(path)
	}
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%s is another user's socket: %w", path, err)
	}
	return err
}

// SetAccess gives the socket at path its mode, and a group by name or number; "": ours.
func SetAccess(path string, mode os.FileMode, group string) error {
	if group != "" {
		gid, err := groupID(group)
		if err != nil {
			return err
		}
		if err := os.Chown(path, -1, gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, mode)
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
