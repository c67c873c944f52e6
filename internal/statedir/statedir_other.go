//go:build !unix

package statedir

import (
	"io/fs"
	"os"
)

const directoryFlags = os.O_RDONLY

// openAt looks first: there is nothing to open what is no link.
func (d *Dir) openAt(name string, flag int, perm fs.FileMode) (*os.File, error) {
	if info, err := os.Lstat(d.join(name)); err == nil && !info.Mode().IsRegular() && !info.IsDir() {
		return nil, &fs.PathError{Op: "open", Path: d.join(name), Err: ErrNotAFile}
	}
	return os.OpenFile(d.join(name), flag, perm)
}

// Remove removes a file; of a link, the link.
func (d *Dir) Remove(name string) error { return os.Remove(d.join(name)) }

// Rename gives a file another name, and replaces what had it.
func (d *Dir) Rename(from, to string) error { return os.Rename(d.join(from), d.join(to)) }

func (d *Dir) reopen() (*os.File, error) { return os.Open(d.path) }

func names(fs.FileInfo) uint64 { return 1 }

func checkDir(*os.File) error { return nil }
