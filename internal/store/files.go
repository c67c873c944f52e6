package store

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// files changes files. Tests put faults in between.
type files interface {
	create(d *statedir.Dir, name string) (*os.File, error)
	nameless() (*os.File, error)                             // in memory; it disappears with the process
	write(f *os.File, head, body []byte, offset int64) error // one piece after the other
	copy(to *os.File, from io.Reader) error                  // all of it
	rename(d *statedir.Dir, from, to string) error           // in the place of what is there
	remove(d *statedir.Dir, name string) error               // if it is there
	sync(path string, f interface{ Sync() error }) error     // what was written, or is in a directory, survives a power failure
	free(dir string) int64                                   // for how many bytes there is room
}

// osFiles are those of the operating system.
type osFiles struct{}

func (osFiles) create(d *statedir.Dir, name string) (*os.File, error) {
	return d.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
}

func (osFiles) write(f *os.File, head, body []byte, offset int64) error {
	_, err := f.WriteAt(head, offset)
	if err == nil {
		_, err = f.WriteAt(body, offset+int64(len(head)))
	}
	return err
}

func (osFiles) copy(to *os.File, from io.Reader) error {
	_, err := io.Copy(to, from)
	return err
}

func (osFiles) rename(d *statedir.Dir, from, to string) error { return d.Rename(from, to) }

func (osFiles) remove(d *statedir.Dir, name string) error {
	if err := d.Remove(name); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (osFiles) sync(_ string, f interface{ Sync() error }) error { return f.Sync() }

func (osFiles) free(dir string) int64 {
	var of unix.Statfs_t
	if err := unix.Statfs(dir, &of); err != nil {
		return 0
	}
	return int64(of.Bavail) * int64(of.Bsize)
}

// replaceFile puts a file with what r reads in the place of another one, if there is one.
func replaceFile(o files, d *statedir.Dir, name string, r io.Reader) error {
	if err := o.remove(d, name+newSuffix); err != nil {
		return err
	}
	f, err := o.create(d, name+newSuffix)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := o.copy(f, r); err != nil {
		o.remove(d, name+newSuffix)
		return err
	}
	return o.rename(d, name+newSuffix, name)
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
