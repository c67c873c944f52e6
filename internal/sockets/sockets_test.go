//go:build unix

package sockets

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// pathFor returns a path that is short enough for a unix socket.
func pathFor(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// try binds a socket, and closes it at the end of the test.
func try(t *testing.T, a address.Address) (File, error) {
	t.Helper()
	conn, file, err := Bind(t.Context(), a)
	if err == nil {
		t.Cleanup(func() { conn.Close() })
	}
	return file, err
}

// What a dead process left behind is replaced. What somebody listens on, or what is no socket, stays.
func TestStaleSocket(t *testing.T) {
	a := address.Address{Network: "unix", Path: pathFor(t)}
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: a.Path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	if _, err := try(t, a); err != nil {
		t.Fatalf("a stale socket is in the way: %v", err)
	}
	for _, network := range []string{"unix", "unixgram"} {
		if _, err := try(t, address.Address{Network: network, Path: a.Path}); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: %v, want %v", network, err, syscall.EADDRINUSE)
		}
	}
	for i := 0; ; i++ { // nobody accepts
		conn, err := net.Dial("unix", a.Path)
		if errors.Is(err, syscall.EAGAIN) || i > 5000 {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	if _, err := try(t, a); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a backlog that is full: %v, want %v", err, syscall.EADDRINUSE)
	}
}

func TestWhatIsNoSocketStays(t *testing.T) {
	for name, plant := range map[string]func(path string) error{
		"file":        func(path string) error { return os.WriteFile(path, []byte("keep"), 0o600) },
		"directory":   func(path string) error { return os.Mkdir(path, 0o700) },
		"link":        func(path string) error { return os.Symlink("/dev/null", path) },
		"broken link": func(path string) error { return os.Symlink("nowhere", path) },
		"fifo":        func(path string) error { return syscall.Mkfifo(path, 0o600) },
	} {
		path := pathFor(t)
		if err := plant(path); err != nil {
			t.Fatal(err)
		}
		before, _ := os.Lstat(path)
		if _, err := try(t, address.Address{Network: "unixgram", Path: path}); err == nil {
			t.Errorf("a %s was replaced", name)
		}
		if now, err := os.Lstat(path); err != nil || !os.SameFile(before, now) {
			t.Errorf("a %s is gone: %v", name, err)
		}
	}
}

// The mode and the group of a socket are set, 0660 where none is said; an unknown group is an
// error, and leaves nothing behind.
func TestModeAndGroup(t *testing.T) {
	for given, want := range map[uint32]os.FileMode{0: 0o660, 0o622: 0o622} {
		a := address.Address{Network: "unix", Path: pathFor(t), Mode: given, Group: fmt.Sprint(os.Getgid())}
		if _, err := try(t, a); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(a.Path); err != nil || info.Mode().Perm() != want {
			t.Errorf("got %v, %v, want %v", info.Mode(), err, want)
		}
	}
	a := address.Address{Network: "unixgram", Path: pathFor(t), Group: "no-such-group-here"}
	if _, err := try(t, a); err == nil {
		t.Error("an unknown group passed")
	}
	if _, err := os.Lstat(a.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its socket is left behind: %v", err)
	}
}

// Only the file that we have made is removed.
func TestFile(t *testing.T) {
	a := address.Address{Network: "unix", Path: pathFor(t)}
	first, err := try(t, a)
	if err != nil || first.IsLost() {
		t.Fatalf("%v, lost: %v", err, first.IsLost())
	}
	if err := os.Remove(a.Path); err != nil {
		t.Fatal(err)
	}
	second, err := try(t, a)
	if err != nil || !first.IsLost() {
		t.Fatalf("%v, lost: %v", err, first.IsLost())
	}
	if first.Remove(); second.IsLost() {
		t.Error("another's socket was removed")
	}
	if second.Remove(); !second.IsLost() {
		t.Error("ours is left behind")
	}
	var none File
	if none.Remove(); none.IsLost() {
		t.Error("no file is lost")
	}
}

// Both addresses of localhost have one port; a family that the host lacks is skipped, another
// error is told.
func TestEach(t *testing.T) {
	var asked []string
	use := func(errs ...error) error {
		asked = nil
		return Each(address.Address{Network: "tcp", Host: "localhost"}, func(a address.Address) (int, error) {
			asked = append(asked, a.HostPort())
			return 1234, errs[len(asked)-1]
		})
	}
	lacking, other := syscall.EADDRNOTAVAIL, syscall.EACCES
	for _, tt := range []struct {
		first, second, want error
		asked               string
	}{
		{nil, nil, nil, "[127.0.0.1:0 [::1]:1234]"},
		{nil, lacking, nil, "[127.0.0.1:0 [::1]:1234]"},
		{lacking, nil, nil, "[127.0.0.1:0 [::1]:0]"},
		{lacking, lacking, lacking, "[127.0.0.1:0 [::1]:0]"},
		{other, nil, other, "[127.0.0.1:0]"},
		{nil, other, other, "[127.0.0.1:0 [::1]:1234]"},
	} {
		if err := use(tt.first, tt.second); !errors.Is(err, tt.want) || fmt.Sprint(asked) != tt.asked {
			t.Errorf("%v, %v: got %v of %v, want %v of %v", tt.first, tt.second, err, asked, tt.want, tt.asked)
		}
	}
}
