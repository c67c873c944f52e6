package store

import (
	"io"
	"os"
	"path/filepath"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A faulty is files between which and the operating system stands fault, if there is one.
type faulty struct {
	osFiles

	// fault is called before each change, with the size of a write; it returns how many bytes are
	// written, and an error.
	fault func(op, path string, size int) (int, error)
}

func (o *faulty) ask(op, path string, size int) (int, error) {
	if o.fault == nil {
		return size, nil
	}
	return o.fault(op, path, size)
}

func (o *faulty) create(d *statedir.Dir, name string) (*os.File, error) {
	if _, err := o.ask("create", filepath.Join(d.Path(), name), 0); err != nil {
		return nil, err
	}
	return o.osFiles.create(d, name)
}

func (o *faulty) nameless() (*os.File, error) {
	if _, err := o.ask("create", "memory", 0); err != nil {
		return nil, err
	}
	return o.osFiles.nameless()
}

func (o *faulty) write(f *os.File, head, body []byte, offset int64) error {
	n, err := o.ask("write", f.Name(), len(head)+len(body))
	if err == nil {
		return o.osFiles.write(f, head, body, offset)
	}
	f.WriteAt(append(append([]byte(nil), head...), body...)[:n], offset)
	o.ask("written", f.Name(), 0)
	return err
}

func (o *faulty) copy(to *os.File, from io.Reader) error {
	b, err := io.ReadAll(from)
	for at := 0; at < len(b) && err == nil; at += 64 << 10 {
		err = o.write(to, nil, b[at:min(len(b), at+64<<10)], int64(at))
	}
	return err
}

func (o *faulty) rename(d *statedir.Dir, from, to string) error {
	if _, err := o.ask("rename", filepath.Join(d.Path(), to), 0); err != nil {
		return err
	}
	return o.osFiles.rename(d, from, to)
}

func (o *faulty) remove(d *statedir.Dir, name string) error {
	if _, err := o.ask("remove", filepath.Join(d.Path(), name), 0); err != nil {
		return err
	}
	return o.osFiles.remove(d, name)
}

func (o *faulty) sync(path string, f interface{ Sync() error }) error {
	if _, err := o.ask("sync", path, 0); err != nil {
		return err
	}
	return o.osFiles.sync(path, f)
}

func (o *faulty) free(dir string) int64 {
	n, _ := o.ask("free", dir, int(min(o.osFiles.free(dir), 1<<30)))
	return int64(n)
}
