// Package statedir is a directory that holds what must outlive the process, and that
// nobody else may have put anything into: it is ours, and nobody else may write it.
//
// What lies in it is opened below the directory that was checked, and only if it is a
// plain file: a link is never followed, and a FIFO or a device never waited for. What
// was planted while the directory was open to others does no harm, then. Nobody exchanges it
// between the look and the opening: nobody else may write there.
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
	"syscall"
)

var (
	// ErrNotOurs is the error of Open for a directory of somebody else's.
	ErrNotOurs = errors.New("it belongs to somebody else")

	// ErrOpenToOthers is the error of Open for a directory that others may write.
	ErrOpenToOthers = errors.New("others may write it")

	// ErrNotAFile is the error for what is no plain file: a link, a FIFO, a device.
	ErrNotAFile = errors.New("it is no plain file")

	// ErrTooLong is the error of ReadFile for a file that is longer than it may be.
	ErrTooLong = errors.New("it is too long")
)

// A Dir is an open directory. Its methods take the name of a file in it, without a
// path; any number of goroutines may use them.
type Dir struct {
	path string
	root *os.Root
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
func OpenExisting(path string) (*Dir, error) {
	root, err := os.OpenRoot(path)
	return checked(path, root, err)
}

// Sub opens a directory below d likewise; no link to one.
func (d *Dir) Sub(name string) (*Dir, error) {
	if err := d.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, d.whole(name, err)
	}
	info, err := d.root.Lstat(name)
	if err = mustBeDir(d.join(name), info, err); err != nil {
		return nil, err
	}
	root, err := d.root.OpenRoot(name)
	return checked(d.join(name), root, d.whole(name, err))
}

// checked makes a Dir of root, which was opened at path.
func checked(path string, root *os.Root, err error) (*Dir, error) {
	if errors.Is(err, fs.ErrPermission) { // perhaps for a reason that can be told
		if info, unseen := os.Stat(path); unseen == nil && check(info) != nil {
			err = fmt.Errorf("%s: %w", path, check(info))
		}
	}
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil {
		err = check(info)
	}
	if err != nil {
		root.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &Dir{path, root}, nil
}

// mustBeDir returns an error where the file at path, as lstat(2) has it, is no directory.
func mustBeDir(path string, info fs.FileInfo, err error) error {
	if err == nil && !info.IsDir() {
		err = &fs.PathError{Op: "open", Path: path, Err: syscall.ENOTDIR}
	}
	return err
}

// Path returns the path that Open was given.
func (d *Dir) Path() string { return d.path }

func (d *Dir) join(name string) string { return filepath.Join(d.path, name) }

// whole returns err with the whole path of a file.
func (d *Dir) whole(name string, err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		e.Path = d.join(name)
	}
	return err
}

// Sync makes what was made, renamed or removed in the directory outlive a power failure.
func (d *Dir) Sync() error {
	file, err := d.root.Open(".")
	if err != nil {
		return d.whole(".", err)
	}
	defer file.Close()
	return SyncDir(file)
}

// SyncDir is Dir.Sync for a directory that is open. Where the file system can't do that, as
// some that are shared or mounted from a host, what it does by itself is all there is.
func SyncDir(dir *os.File) error {
	if err := dir.Sync(); !errors.Is(err, syscall.EINVAL) && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	return nil
}

// Close closes the directory; files that were opened stay open.
func (d *Dir) Close() error { return d.root.Close() }

// Remove removes a file; of a link, the link.
func (d *Dir) Remove(name string) error { return d.whole(name, d.root.Remove(name)) }

// Rename gives a file another name, and replaces what had it.
func (d *Dir) Rename(from, to string) error { return d.root.Rename(from, to) }

// OpenFile is os.OpenFile for a plain file in the directory of path, which is opened as Sub
// does.
func OpenFile(path string, flag int, perm fs.FileMode) (*os.File, error) {
	parent := filepath.Dir(path)
	info, err := os.Lstat(parent)
	if err = mustBeDir(parent, info, err); err != nil {
		return nil, err
	}
	d, err := OpenExisting(parent)
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

// OpenFile is os.OpenFile for a plain file, which is ours whatever its mode has become.
func (d *Dir) OpenFile(name string, flag int, perm fs.FileMode) (*os.File, error) {
	switch info, err := d.root.Lstat(name); {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, d.whole(name, err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%s: %w", d.join(name), ErrNotAFile)
	case flag&(os.O_WRONLY|os.O_RDWR) != 0 && names(info) > 1:
		return nil, fmt.Errorf("%s: it has another name elsewhere", d.join(name))
	}
	file, err := d.root.OpenFile(name, flag, perm)
	if errors.Is(err, fs.ErrPermission) && d.root.Chmod(name, 0o600) == nil {
		file, err = d.root.OpenFile(name, flag, perm)
	}
	return file, d.whole(name, err)
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
