package predecessor

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A queue that no process has had for a week goes. Where its lines are adopted is tested
// in the store.
func TestCollect(t *testing.T) {
	dir := t.TempDir()
	plant := func(name string, age time.Duration) *os.File {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		os.Chtimes(f.Name(), time.Time{}, time.Now().Add(-age))
		t.Cleanup(func() { f.Close() })
		return f
	}
	plant("prefixproxy-0123456789ab.queue", abandonedAge+time.Hour)
	plant("prefixproxy-1123456789ab.queue", abandonedAge-time.Hour)
	plant("other.queue", abandonedAge+time.Hour)
	used := plant("prefixproxy-2123456789ab.queue", abandonedAge+time.Hour)
	if err := unix.Flock(int(used.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	os.Symlink("other.queue", filepath.Join(dir, "prefixproxy-3123456789ab.queue"))
	Collect(dir, slog.New(slog.DiscardHandler))
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 4 {
		t.Errorf("left: %q", left)
	}
	if _, err := os.Stat(filepath.Join(dir, "prefixproxy-0123456789ab.queue")); err == nil {
		t.Error("the abandoned one is there")
	}
}

// What else lies in the directory of a spool stays, and stops no start.
func TestAdoptLeavesWhatIsForeign(t *testing.T) {
	state, err := statedir.Open(filepath.Join(t.TempDir(), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer state.Close()
	foreign := filepath.Join(state.Path(), spoolName, "lost+found")
	if err := os.MkdirAll(foreign, 0o700); err != nil {
		t.Fatal(err)
	}
	put := func(Lines) error { return nil }
	if err := Adopt(state, put, slog.New(slog.DiscardHandler)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(foreign); err != nil {
		t.Error(err)
	}
}

// What was planted in the place of a spool or a queue stops no start, and costs nobody's file.
func TestAdoptIsNotMisled(t *testing.T) {
	victim := filepath.Join(t.TempDir(), "victim")
	for what, plant := range map[string]func(path string) error{
		"link":          func(path string) error { return os.Symlink(victim, path) },
		"a link beyond": func(path string) error { return os.Symlink(filepath.Dir(victim), path) },
		"fifo":          func(path string) error { return unix.Mkfifo(path, 0o600) },
		"file":          func(path string) error { return os.WriteFile(path, []byte("ppspool"), 0o600) },
		"directory":     func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		for _, name := range []string{queueName, spoolName} {
			if err := os.WriteFile(victim, []byte("root's"), 0o600); err != nil {
				t.Fatal(err)
			}
			state, err := statedir.Open(filepath.Join(t.TempDir(), "state"))
			if err != nil {
				t.Fatal(err)
			}
			defer state.Close()
			if err := plant(filepath.Join(state.Path(), name)); err != nil {
				t.Fatal(err)
			}
			if err := Adopt(state, func(Lines) error { return nil }, slog.New(slog.DiscardHandler)); err != nil {
				t.Errorf("%s as %s: %v", what, name, err)
			}
			if text, _ := os.ReadFile(victim); string(text) != "root's" {
				t.Errorf("%s as %s: the victim holds %q", what, name, text)
			}
		}
	}
}
