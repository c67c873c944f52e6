//go:build unix

package statedir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
)

func openDir(t *testing.T, path string) *Dir {
	t.Helper()
	d, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestWriteAndRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "on demand")
	d := openDir(t, path)
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("got %v, %v; want mode 0700", info, err)
	}
	if _, err := d.ReadFile("a", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want that it does not exist", err)
	}
	for _, text := range []string{"one", "another", ""} {
		if err := d.WriteFile("a", []byte(text)); err != nil {
			t.Fatal(err)
		}
		if data, err := d.ReadFile("a", 7); err != nil || string(data) != text {
			t.Errorf("got %q, %v; want %q", data, err, text)
		}
	}
	if info, err := os.Stat(filepath.Join(path, "a")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v; want mode 0600", info, err)
	}
	os.WriteFile(filepath.Join(path, "long"), make([]byte, 8), 0o600)
	if _, err := d.ReadFile("long", 7); err == nil {
		t.Error("8 bytes were read, of 7 at most")
	}
	if names, _ := os.ReadDir(path); len(names) != 2 {
		t.Errorf("got %q, want a and long", names)
	}
}

// A directory that others may write, or that is another's, is refused.
func TestRefused(t *testing.T) {
	for mode, want := range map[os.FileMode]error{
		0o700: nil, 0o750: nil, 0o755: nil, 0o777: ErrOpenToOthers, 0o702: ErrOpenToOthers, 0o770: ErrOpenToOthers, 0o777 | os.ModeSticky: ErrOpenToOthers,
	} {
		path := t.TempDir()
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		d, err := Open(path)
		if !errors.Is(err, want) {
			t.Errorf("mode %v: got %v, want %v", mode, err, want)
		}
		if err == nil {
			d.Close()
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	path := t.TempDir()
	if err := os.Chown(path, 12345, -1); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, ErrNotOurs) {
		t.Errorf("got %v, want %v", err, ErrNotOurs)
	}
	if _, err := checked(path, nil, fs.ErrPermission); !errors.Is(err, ErrNotOurs) { // as it is for others than root
		t.Errorf("closed: got %v, want %v", err, ErrNotOurs)
	}
}

// What was planted in the directory is neither followed, nor waited for, nor removed
// with what it leads to.
func TestPlanted(t *testing.T) {
	for name, plant := range map[string]func(path, victim string) error{
		"link":        func(path, victim string) error { return os.Symlink(victim, path) },
		"broken link": func(path, victim string) error { return os.Symlink(victim+"-not-there", path) },
		"hard link":   func(path, victim string) error { return os.Link(victim, path) },
		"fifo":        func(path, _ string) error { return syscall.Mkfifo(path, 0o600) },
		"directory":   func(path, _ string) error { return os.Mkdir(path, 0o700) },
		"device":      func(path, _ string) error { return syscall.Mknod(path, syscall.S_IFCHR|0o600, 1<<8|5) }, // zero
	} {
		t.Run(name, func(t *testing.T) {
			victim := filepath.Join(t.TempDir(), "victim")
			if err := os.WriteFile(victim, []byte("root's"), 0o600); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			d := openDir(t, dir)
			for _, planted := range []string{"a", "b.new"} {
				if err := plant(filepath.Join(dir, planted), victim); errors.Is(err, syscall.EPERM) {
					t.Skip(err)
				} else if err != nil {
					t.Fatal(err)
				}
			}
			if data, err := d.ReadFile("a", 100); err == nil && name != "hard link" {
				t.Errorf("read %q", data)
			}
			for _, flag := range []int{os.O_RDWR, os.O_WRONLY | os.O_CREATE, os.O_WRONLY | os.O_TRUNC} {
				if _, err := d.OpenFile("a", flag, 0o600); err == nil {
					t.Errorf("opened with %#x", flag)
				}
				if _, err := OpenFile(filepath.Join(dir, "a"), flag, 0o600); err == nil {
					t.Errorf("opened by its path with %#x", flag)
				}
			}
			for _, file := range []string{"a", "b"} {
				err := d.WriteFile(file, []byte("ours"))
				data, _ := d.ReadFile(file, 100)
				if (err == nil) != (string(data) == "ours") || err != nil && name != "directory" {
					t.Errorf("written to %s: %v, and it holds %q", file, err, data)
				}
			}
			if data, err := os.ReadFile(victim); err != nil || string(data) != "root's" {
				t.Errorf("the file that the link leads to: %q, %v", data, err)
			}
			if _, err := os.Lstat(victim + "-not-there"); err == nil {
				t.Error("a file was made where the link leads to")
			}
		})
	}
}

func TestSub(t *testing.T) {
	dir, elsewhere := t.TempDir(), t.TempDir()
	d := openDir(t, dir)
	sub, err := d.Sub("spool")
	if err != nil {
		t.Fatal(err)
	}
	if sub.Path() != filepath.Join(dir, "spool") || sub.WriteFile("a", nil) != nil {
		t.Errorf("got %s", sub.Path())
	}
	sub.Close()
	if _, err := d.Sub("spool"); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if err := os.Symlink(elsewhere, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Sub("link"); err == nil {
		t.Error("a link to a directory was followed")
	}
	if _, err := OpenFile(filepath.Join(dir, "link", "a"), os.O_CREATE|os.O_WRONLY, 0o600); err == nil {
		t.Error("a link to a directory was followed by a file's path")
	}
	os.Mkdir(filepath.Join(dir, "open"), 0o700)
	os.Chmod(filepath.Join(dir, "open"), 0o777)
	if _, err := d.Sub("open"); !errors.Is(err, ErrOpenToOthers) {
		t.Errorf("got %v, want %v", err, ErrOpenToOthers)
	}
}

// A file takes no more memory than it has bytes; one that is too long, none.
func TestReadTakesLittleMemory(t *testing.T) {
	d := openDir(t, t.TempDir())
	const most = 8 << 20
	for size, want := range map[int64]struct {
		err   error
		bytes uint64
	}{most: {nil, most + 64<<10}, most + 1: {ErrTooLong, 64 << 10}, 1 << 33: {ErrTooLong, 64 << 10}} {
		file, err := d.OpenFile("a", os.O_CREATE|os.O_WRONLY, 0o600)
		if err = errors.Join(err, file.Truncate(size), file.Close()); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		data, err := d.ReadFile("a", most)
		runtime.ReadMemStats(&after)
		if !errors.Is(err, want.err) || err == nil && int64(len(data)) != size {
			t.Errorf("%d bytes: got %d, %v; want %v", size, len(data), err, want.err)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > want.bytes {
			t.Errorf("%d bytes took %d KiB of memory, want %d", size, used>>10, want.bytes>>10)
		}
	}
}

// A file whose mode was changed is still ours.
func TestModeChanged(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may open any file")
	}
	d := openDir(t, t.TempDir())
	for _, flag := range []int{os.O_RDONLY, os.O_RDWR | os.O_CREATE} {
		path := filepath.Join(d.Path(), "a")
		if err := errors.Join(d.WriteFile("a", []byte("text")), os.Chmod(path, 0)); err != nil {
			t.Fatal(err)
		}
		file, err := d.OpenFile("a", flag, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 4 {
			t.Errorf("got %v, %v; want mode 0600, and 4 bytes", info, err)
		}
	}
}

// A file system that syncs no directories is used all the same.
func TestDirectoriesAreNotSynced(t *testing.T) {
	dir, err := os.Open("/proc/self")
	if err != nil {
		t.Skip(err)
	}
	defer dir.Close()
	if err := dir.Sync(); err == nil {
		t.Skip("/proc is synced")
	}
	if err := SyncDir(dir); err != nil {
		t.Errorf("got %v, want that it is left to the file system", err)
	}
}
