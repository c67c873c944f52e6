package inlet

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

// A path is that of a unix socket which we have bound; the zero value is none.
type path struct {
	name string
	file os.FileInfo // as we made it
}

// newPath returns the path of a socket that has just been bound there.
func newPath(name string) (path, error) {
	file, err := os.Lstat(name)
	return path{name, file}, err
}

// leads says whether the path leads to the socket: its file may be gone, or another's
// by now. While the socket is open, no other file can have its inode.
func (p path) leads() bool {
	now, err := os.Lstat(p.name)
	return err == nil && os.SameFile(now, p.file)
}

// remove removes the socket's file.
func (p path) remove() {
	if p.leads() {
		os.Remove(p.name)
	}
}

// removeStale removes a socket that a dead process left behind. One on which
// somebody listens stays, and is an error.
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
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s: %w", a.Path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(a.Path)
}

// setAccess gives a unix socket its mode and group.
func setAccess(a address.Address) error {
	if a.Group != "" {
		gid, err := groupID(a.Group)
		if err != nil {
			return err
		}
		if err := os.Chown(a.Path, -1, gid); err != nil {
			return err
		}
	}
	return os.Chmod(a.Path, os.FileMode(cmp.Or(a.Mode, defaultMode)))
}

// defaultMode lets the socket's user and group write to it.
const defaultMode = 0o660

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
