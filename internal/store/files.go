package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// files changes files. Tests put faults between.
type files struct {
	// fault is asked before each change, with the number of bytes of a write; it
	// returns how many of them are written, and an error.
	fault func(op, path string, size int) (int, error)
}

func (o *files) ask(op, path string, size int) (int, error) {
	if o.fault == nil {
		return size, nil
	}
	return o.fault(op, path, size)
}

// write writes two pieces behind each other.
func (o *files) write(f *os.File, path string, head, body []byte, offset int64) error {
	if n, err := o.ask("write", path, len(head)+len(body)); err != nil {
		f.WriteAt(append(append([]byte(nil), head...), body...)[:n], offset)
		o.ask("written", path, 0)
		return err
	}
	if len(body) == 0 {
		_, err := f.WriteAt(head, offset)
		return err
	}
	_, err := writeAt(f, head, body, offset)
	return err
}

// create makes a file that is ours alone, in a directory that is.
func (o *files) create(path string) (*os.File, error) {
	if _, err := o.ask("create", path, 0); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, 0o600)
}

func (o *files) rename(from, to string) error {
	if _, err := o.ask("rename", to, 0); err != nil {
		return err
	}
	return os.Rename(from, to)
}

func (o *files) remove(path string) error {
	if _, err := o.ask("remove", path, 0); err != nil {
		return err
	}
	return ignoreMissing(os.Remove(path))
}

func (o *files) sync(f *os.File) error {
	if _, err := o.ask("sync", f.Name(), 0); err != nil {
		return err
	}
	return f.Sync()
}

// syncPath makes what was written to a file, or in a directory, outlive a power
// failure.
func (o *files) syncPath(path string) error {
	f, err := openOurs(path, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return nil // nobody needs it any more
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return o.sync(f)
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// errNotOurs is the error of a file or directory that somebody else may write.
var errNotOurs = errors.New("not a file or directory that is ours alone")

// openOurs opens a file or a directory; it refuses a link, what is neither, and what
// belongs to or is open to others.
func openOurs(path string, flag int) (*os.File, error) {
	f, err := os.OpenFile(path, flag|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil {
		err = checkOurs(info)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return f, nil
}

func checkOurs(info fs.FileInfo) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	isSound := info.IsDir() || info.Mode().IsRegular() && ok && st.Nlink <= 1
	if !isSound || !ok || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return errNotOurs
	}
	return nil
}

// makeDirectory makes a directory that is ours alone, if it is not there.
func makeDirectory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	f, err := openOurs(path, os.O_RDONLY)
	if err != nil {
		return err
	}
	return f.Close()
}

// readOurs reads a small file that is ours alone.
func readOurs(path string) ([]byte, error) {
	f, err := openOurs(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() > maxStateSize {
		return nil, errors.Join(err, fmt.Errorf("%s has %d bytes", path, info.Size()))
	}
	b := make([]byte, info.Size())
	n, err := f.ReadAt(b, 0)
	if n == len(b) {
		err = nil
	}
	return b[:n], err
}

const maxStateSize = 64 << 20

const segmentSuffix = ".log"

// segmentPath returns the name of a segment's file. What is in the file says where
// it belongs.
func segmentPath(dir string, k kind, number uint64) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%016x%s", k, number, segmentSuffix))
}
