//go:build unix

package conf

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// Only a regular file of limited size is read.
func TestReadFile(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, size int) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	link, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "fifo")
	if err := os.Symlink(write("plain", maxFile), link); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if text, _, err := ReadFile(link); err != nil || !bytes.Equal(text, make([]byte, maxFile)) {
		t.Errorf("got %d bytes, %v", len(text), err)
	}
	for _, path := range []string{write("long", maxFile+1), fifo, dir, "/dev/zero", filepath.Join(dir, "none")} {
		if _, _, err := ReadFile(path); err == nil {
			t.Errorf("%s is read", path)
		}
	}
}
