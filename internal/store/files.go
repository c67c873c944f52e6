package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// files changes files. Tests put faults in between.
type files struct {
	// fault is called before each change, with the size of a write; it returns how many bytes are
	// written, and an error.
	fault func(op, path string, size int) (int, error)
}

func (o *files) ask(op, path string, size int) (int, error) {
	if o.fault == nil {
		return size, nil
	}
	return o.fault(op, path, size)
}

// write writes two pieces, one after the other.
func (o *files) write(f *os.File, head, body []byte, offset int64) error {
	if n, err := o.ask("write", f.Name(), len(head)+len(body)); err != nil {
		f.WriteAt(append(append([]byte(nil), head...), body...)[:n], offset)
		o.ask("written", f.Name(), 0)
		return err
	}
	_, err := writeAt(f, head, body, offset)
	return err
}

// create makes a file.
func (o *files) create(d *statedir.Dir, name string) (*os.File, error) {
	if _, err := o.ask("create", filepath.Join(d.Path(), name), 0); err != nil {
		return nil, err
	}
	return d.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

// replace puts a file with what r reads in the place of another one, if there is one.
func (o *files) replace(d *statedir.Dir, name string, r io.Reader) error {
	if err := o.remove(d, name+newSuffix); err != nil {
		return err
	}
	f, err := o.create(d, name+newSuffix)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := io.CopyBuffer(io.NewOffsetWriter(writer{o, f}, 0), r, make([]byte, 64<<10)); err != nil {
		o.remove(d, name+newSuffix)
		return err
	}
	return o.rename(d, name+newSuffix, name)
}

// A writer writes a file.
type writer struct {
	files *files
	file  *os.File
}

func (w writer) WriteAt(b []byte, at int64) (int, error) {
	return len(b), w.files.write(w.file, b, nil, at)
}

func (o *files) rename(d *statedir.Dir, from, to string) error {
	return o.do("rename", filepath.Join(d.Path(), to), func() error { return d.Rename(from, to) })
}

// remove removes a file if it is there.
func (o *files) remove(d *statedir.Dir, name string) error {
	err := o.do("remove", filepath.Join(d.Path(), name), func() error { return d.Remove(name) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// sync makes what was written to a file, or in a directory, survive a power failure.
func (o *files) sync(path string, f interface{ Sync() error }) error {
	return o.do("sync", path, f.Sync)
}

func (o *files) do(op, path string, change func() error) error {
	if _, err := o.ask(op, path, 0); err != nil {
		return err
	}
	return change()
}

// free returns how many bytes a directory has room for.
func (o *files) free(dir string) int64 {
	var of unix.Statfs_t
	if err := unix.Statfs(dir, &of); err != nil {
		return 0
	}
	n, _ := o.ask("free", dir, int(of.Bavail)*int(of.Bsize))
	return int64(n)
}

// isDamage says whether what could not be read is lost. Any other error may go away by the next
// attempt.
func isDamage(err error) bool {
	return errors.Is(err, records.ErrDamaged) || errors.Is(err, statedir.ErrNotAFile) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.EIO)
}

const (
	segmentSuffix = ".log"
	newSuffix     = ".new" // what is being written
)

// segmentName returns the name of a segment's file. Its contents say where it belongs.
func segmentName(k records.Kind, number uint64) string {
	return fmt.Sprintf("%s-%016x%s", k, number, segmentSuffix)
}
