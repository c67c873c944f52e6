package state

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"
)

// A directory that was writable once, and has its files, is refused when it no longer is.
func TestStateNoLongerWritable(t *testing.T) {
	dir := t.TempDir()
	t.Cleanup(func() { os.Chmod(dir, 0o700) })
	protect, want := func() error { return os.Chmod(dir, 0o500) }, fs.ErrPermission
	if os.Geteuid() == 0 { // whom modes do not stop
		if err := syscall.Mount("none", dir, "tmpfs", 0, "mode=0700"); err != nil {
			t.Skip("cannot mount a tmpfs:", err)
		}
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
		protect = func() error { return syscall.Mount("none", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, "") }
		want = syscall.EROFS
	}
	if err := open(t, dir).Close(); err != nil {
		t.Fatal(err)
	}
	if err := protect(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}
