package predecessor

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
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
