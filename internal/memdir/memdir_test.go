package memdir

import (
	"bytes"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A tenant is a directory on disk and a process that wants one in memory.
type tenant struct {
	*testing.T
	disk  *statedir.Dir
	bases []string
	log   bytes.Buffer
}

func newTenant(t *testing.T, bases ...string) *tenant {
	disk, err := statedir.Open(filepath.Join(t.TempDir(), "st[a]te %41\n"))
	if err != nil {
		t.Fatal(err)
	}
	return &tenant{T: t, disk: disk, bases: bases}
}

func (o *tenant) find() *Dir {
	o.Helper()
	d := Find(o.disk, o.bases, slog.New(slog.NewTextHandler(&o.log, nil)))
	if d == nil {
		o.Fatalf("found none: %s", &o.log)
	}
	o.Cleanup(func() { d.Close() })
	return d
}

// kept is what find finds, where a file was left before.
func (o *tenant) kept() bool {
	o.Helper()
	d := o.find()
	defer d.Close()
	_, err := os.Stat(filepath.Join(d.Path(), "file"))
	return err == nil
}

// leave leaves a file behind.
func (o *tenant) leave() (path string) {
	o.Helper()
	d := o.find()
	defer d.Close()
	if err := d.WriteFile("file", nil); err != nil {
		o.Fatal(err)
	}
	return d.Path()
}

// What a process left in memory is found by the next, wherever that would look first.
func TestFoundAgain(t *testing.T) {
	o := newTenant(t, filepath.Join(t.TempDir(), "not there"), t.TempDir())
	path := o.leave()
	if filepath.Dir(path) != o.bases[1] || !strings.Contains(o.log.String(), "no directory for the queue here") {
		t.Errorf("made %s: %s", path, &o.log)
	}
	o.bases = []string{t.TempDir()}
	if !o.kept() {
		t.Errorf("not found: %s", &o.log)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := os.MkdirAll(filepath.Join(path, "other", "file"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := o.find().Remove(); err != nil {
		t.Error(err)
	}
	if !o.kept() {
		t.Error("what somebody else has in it is gone")
	}
	os.Remove(filepath.Join(path, "other", "file"))
	if err := o.find().Remove(); err != nil {
		t.Error(err)
	}
	if o.kept() {
		t.Error("removed, and found")
	}
}

// A state directory that was moved, or is reached by another path, has what it had in memory.
func TestMoved(t *testing.T) {
	o := newTenant(t, t.TempDir())
	path := o.leave()
	for _, change := range []func(from, to string) error{os.Rename, func(from, to string) error { return os.Symlink(from, to) }} {
		to := filepath.Join(t.TempDir(), "elsewhere")
		if err := change(o.disk.Path(), to); err != nil {
			t.Fatal(err)
		}
		o.disk, _ = statedir.Open(to)
		if !o.kept() {
			t.Fatalf("not found: %s", &o.log)
		}
		if collect(o.bases[0], slog.New(slog.DiscardHandler)); !o.kept() {
			t.Error("collected")
		}
	}
	if whose, _ := os.ReadFile(filepath.Join(path, ownerName)); string(whose) != owner(o.disk) {
		t.Errorf("it is %q's", whose)
	}
}

// A disk that takes nothing, from the start on, costs nothing of what is in memory.
func TestNotNamedOnDisk(t *testing.T) {
	o := newTenant(t, t.TempDir())
	if err := os.MkdirAll(filepath.Join(o.disk.Path(), pointerName+".new", "x"), 0o700); err != nil {
		t.Fatal(err)
	}
	o.leave()
	if !o.kept() {
		t.Errorf("not found: %s", &o.log)
	}
}

// Of the two files that name each other, one may be damaged; nobody takes what is there for
// abandoned meanwhile.
func TestDamaged(t *testing.T) {
	for _, name := range []string{pointerName, ownerName} {
		for what, damage := range map[string]func(path string) error{
			"empty":   func(path string) error { return os.Truncate(path, 0) },
			"cut":     func(path string) error { return os.Truncate(path, 9) },
			"changed": func(path string) error { return os.WriteFile(path, []byte("\x00\xff"), 0o600) },
			"foreign": func(path string) error { return os.WriteFile(path, []byte("/etc\n"), 0o600) },
			"a directory": func(path string) error {
				os.Remove(path)
				return os.MkdirAll(filepath.Join(path, "x"), 0o700)
			},
			"huge":   func(path string) error { return os.Truncate(path, 1<<40) },
			"a fifo": func(path string) error { os.Remove(path); return unix.Mkfifo(path, 0o600) },
			"a link": func(path string) error { os.Remove(path); return os.Symlink("/etc/passwd", path) },
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				o := newTenant(t, t.TempDir())
				dir := o.leave()
				if name == pointerName {
					dir = o.disk.Path()
				}
				if err := damage(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
				if name == pointerName {
					collect(o.bases[0], slog.New(slog.DiscardHandler))
				}
				for range 2 {
					if !o.kept() {
						t.Fatalf("not found: %s", &o.log)
					}
				}
			})
		}
	}
}

// Those whose owners are gone for good are removed; others are not.
func TestCollect(t *testing.T) {
	base := t.TempDir()
	gone, stopped, moved := newTenant(t, base), newTenant(t, base), newTenant(t, base)
	for _, o := range []*tenant{gone, stopped, moved} {
		o.leave()
	}
	os.RemoveAll(gone.disk.Path())
	os.Remove(filepath.Join(moved.disk.Path(), pointerName))
	lives := newTenant(t, base).find()
	unfinished, fresh, strange := filepath.Join(base, prefix+"1"), filepath.Join(base, prefix+"2"), filepath.Join(base, "other")
	for _, path := range []string{unfinished, fresh, strange} {
		os.Mkdir(path, 0o700)
	}
	os.Chtimes(unfinished, time.Time{}, time.Now().Add(-2*unownedAge))
	newTenant(t, base).find()
	if left, _ := os.ReadDir(base); len(left) != 5 { // stopped, lives, fresh, strange, and the last
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(lives.Path()); err != nil {
		t.Error(err)
	}
	if !stopped.kept() {
		t.Errorf("a stopped one's is gone: %s", &stopped.log)
	}
}

// Who looks for abandoned directories makes none that another has just removed.
func TestLooksOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), prefix+"1")
	if isAbandoned(path) {
		t.Error("what is gone is abandoned")
	}
	if _, err := open(nil, path, os.O_CREATE); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opened what is gone: %v", err)
	}
	if _, err := os.Lstat(path); err == nil {
		t.Error("who looked made it")
	}
}

// Who looks for abandoned directories does not keep another from its own.
func TestCollectBesideARestart(t *testing.T) {
	base := t.TempDir()
	o := newTenant(t, base)
	o.leave()
	stop := make(chan struct{})
	var collecting sync.WaitGroup
	collecting.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				collect(base, slog.New(slog.DiscardHandler))
			}
		}
	})
	for i := range 200 {
		if !o.kept() {
			t.Errorf("start %d finds nothing: %s", i, &o.log)
			break
		}
	}
	close(stop)
	collecting.Wait()
}

// A directory that is another's, or in use, or open to others, is left alone.
func TestNotOurs(t *testing.T) {
	o := newTenant(t, t.TempDir())
	path := o.leave()
	copied := newTenant(t, t.TempDir())
	if err := copied.disk.WriteFile(pointerName, []byte(path+"\n")); err != nil {
		t.Fatal(err)
	}
	if copied.kept() {
		t.Error("a copied state directory takes the original's memory")
	}
	used := o.find()
	if o.find().Path() == path {
		t.Error("a directory that is in use was used")
	}
	used.Close()
	if err := o.disk.WriteFile(pointerName, []byte(path+"\n")); err != nil {
		t.Fatal(err)
	}
	os.Chmod(path, 0o777)
	if o.kept() {
		t.Error("a directory that others may write was used")
	}
}

// Of many that begin side by side, none takes the directory of another for abandoned.
func TestSideBySide(t *testing.T) {
	base := t.TempDir()
	var all sync.WaitGroup
	for range 8 {
		o := newTenant(t, base)
		all.Go(func() {
			for range 5 {
				d := Find(o.disk, o.bases, slog.New(slog.DiscardHandler))
				if d == nil {
					t.Error("found none")
					return
				}
				if _, err := os.Stat(d.Path()); err != nil {
					t.Error(err)
				}
				d.Remove()
			}
		})
	}
	all.Wait()
}
