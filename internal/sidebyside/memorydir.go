package sidebyside

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// memoryNeeded is the room in bytes below which memory is left to others.
const memoryNeeded = 2 << 30

// MemoryDir returns a directory of the test's own whose files are in memory: an etcd there
// answers in time while others keep the disk busy. Where there is no such place, or little
// room in it, the files are on disk.
func MemoryDir(t testing.TB) string {
	t.Helper()
	dir, err := NewMemoryDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// NewMemoryDir is MemoryDir for what outlives a test. The caller removes the directory.
func NewMemoryDir() (dir string, err error) {
	const name = "prefixproxy-test-"
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) == nil && uint64(fs.Bavail)*uint64(fs.Bsize) >= memoryNeeded {
		if dir, err = os.MkdirTemp("/dev/shm", name); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", name)
}
