package proxy

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/prefixproxy/prefixproxy/internal/journal"
)

// A queueFile is where the Carbon queue lies: a file in memory, which outlives
// the process. A link in the state directory leads to it, so that the next
// process finds it wherever it is.
type queueFile struct {
	state string   // the state directory
	dirs  []string // where the file may be, the best first
	log   *slog.Logger
}

// linkName is the name of the link.
const linkName = "queue"

// open opens the file, which it makes where it is missing, and returns the
// segments that a predecessor left; a journal in this process's memory where no
// directory will do.
func (f queueFile) open() (*journal.Journal, []*journal.Segment) {
	for _, path := range f.paths() {
		j, left, skipped, err := journal.Open(path)
		if err != nil {
			f.log.Warn("queue's file not usable", "err", err)
			continue
		}
		if err := f.link(path); err != nil {
			f.log.Warn("no link to the queue's file; the next start looks in the usual places", "file", path, "err", err)
		}
		if skipped > 0 {
			f.log.Error("segments of the queue's file make no sense", "file", path, "segments", skipped)
		}
		if filepath.Dir(path) == filepath.Clean(f.state) {
			f.log.Warn("the queue's file is on disk, which costs writes; give the daemon a runtime directory", "file", path)
		}
		return j, left
	}
	f.log.Warn("what waits in memory would be lost if the process were killed")
	return journal.InMemory(), nil
}

// paths returns the files to try: the one that is there, and then the best.
func (f queueFile) paths() []string {
	var paths []string
	if there, err := os.Readlink(f.linkPath()); err == nil {
		if _, err := os.Lstat(there); err == nil {
			paths = append(paths, there)
		}
	}
	sum := sha256.Sum256([]byte(filepath.Clean(f.state)))
	for _, dir := range f.dirs {
		paths = append(paths, filepath.Join(dir, fmt.Sprintf("prefixproxy-%x.queue", sum[:6])))
	}
	return paths
}

func (f queueFile) linkPath() string { return filepath.Join(f.state, linkName) }

// link makes the link lead to path.
func (f queueFile) link(path string) error {
	if there, err := os.Readlink(f.linkPath()); err == nil && there == path {
		return nil
	}
	if err := os.Remove(f.linkPath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(path, f.linkPath())
}

// close ends the use of the file, and removes it where it is empty.
func (f queueFile) close(j *journal.Journal, empty bool) error {
	if j.Path() == "" {
		return nil
	}
	err := j.Close(empty)
	if empty {
		err = errors.Join(err, os.Remove(f.linkPath()))
	}
	return err
}
