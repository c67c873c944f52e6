// Package statedir is a directory that holds what must outlive the process, and that
// nobody else may have put anything into: it is ours, and nobody else may write it.
//
// What lies in it is opened below the directory that was checked, and only if it is a
// plain file: a link is never followed, and a FIFO or a device never waited for. What
// was planted while the directory was open to others does no harm, then.
//
// # Not promised
//
// Protection from who may write the directories above it, or from root. Locks: the
// owner of a Dir takes care that there is one.
package statedir

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

var (
	// ErrNotOurs is the error of Open for a directory of somebody else's.
	ErrNotOurs = errors.New("it belongs to somebody else")

	// ErrOpenToOthers is the error of Open for a directory that others may write.
	ErrOpenToOthers = errors.New("others may write it")

	// ErrNotAFile is the error for what is no plain file: a link, a FIFO, a device.
	ErrNotAFile = errors.New("it is no plain file")

	// ErrLinked is the error of what is to be written, and is a file elsewhere, too.
	ErrLinked = errors.New("it has another name elsewhere")

	// ErrTooLong is the error of ReadFile for a file that is longer than it may be.
	ErrTooLong = errors.New("it is too long")
)

// A Dir is an open directory. Its methods take the name of a file in it, without a
// path; any number of goroutines may use them.
type Dir struct {
	path string
	file *os.File
}

// Open opens the directory at path, which it makes (0700) where it is missing. Its
// owner must be who we are, and nobody else may write it. path itself may be a link.
func Open(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return OpenExisting(path)
}

// OpenExisting is Open for a directory that is not made.
func OpenExisting(path string) (*Dir, error) { return open(os.Open(path)) }

// Sub opens a directory below d likewise.
func (d *Dir) Sub(name string) (*Dir, error) {
	if err := os.Mkdir(d.join(name), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	return open(d.openAt(name, directoryFlags, 0))
}

func open(file *os.File, err error) (*Dir, error) {
	if err != nil {
		return nil, err
	}
	if err := checkDir(file); err != nil {
		file.Close()
		return nil, fmt.Errorf("%s: %w", file.Name(), err)
	}
	return &Dir{file.Name(), file}, nil
}

// Path returns the path that Open was given.
func (d *Dir) Path() string { return d.path }

func (d *Dir) join(name string) string { return filepath.Join(d.path, name) }

// Sync makes what was made, renamed or removed in the directory outlive a power failure.
func (d *Dir) Sync() error { return d.file.Sync() }

// Close closes the directory; files that were opened stay open.
func (d *Dir) Close() error { return d.file.Close() }

// OpenFile is os.OpenFile for a plain file in the directory of path, which is opened as Sub
// does.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	parent := &Dir{path: filepath.Dir(path)}
	d, err := open(parent.reopen())
	if err != nil {
		return nil, err
	}
	defer d.Close()
	return d.OpenFile(filepath.Base(path), flag, perm)
}

// ReadFile is Dir.ReadFile likewise.
func ReadFile(path string, most int64) ([]byte, error) {
	file, err := OpenFile(path, os.O_RDONLY, 0)
	return readAll(file, err, most)
}

// OpenFile is os.OpenFile for a plain file.
func (d *Dir) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	file, err := d.openAt(name, flag&^os.O_TRUNC, perm)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	switch {
	case err != nil:
	case !info.Mode().IsRegular():
		err = fmt.Errorf("%s: %w", file.Name(), ErrNotAFile)
	case flag&(os.O_WRONLY|os.O_RDWR) != 0 && names(info) > 1:
		err = fmt.Errorf("%s: %w", file.Name(), ErrLinked)
	case flag&os.O_TRUNC != 0:
		err = file.Truncate(0)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// ReadFile returns what is in a file, of most bytes at most: of a longer one, an
// error.
func (d *Dir) ReadFile(name string, most int64) ([]byte, error) {
	file, err := d.OpenFile(name, os.O_RDONLY, 0)
	return readAll(file, err, most)
}

func readAll(file *os.File, err error, most int64) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > most {
		return nil, fmt.Errorf("%s: %w: more than %d bytes", file.Name(), ErrTooLong, most)
	}
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead)) // which does not grow
	_, err = data.ReadFrom(io.LimitReader(file, most))
	return data.Bytes(), err
}

// WriteFile replaces a file (0600), whole or not at all, also where the power fails
// (which may bring the old one back).
func (d *Dir) WriteFile(name string, data []byte) error {
	temporary := name + ".new"
	if err := d.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := d.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return errors.Join(err, d.Remove(temporary))
	}
	return d.Rename(temporary, name)
}
