// Package memdir gives a directory on disk its directory in memory, whose files outlive
// the process, and not the machine.
//
// It has a name that nobody can know before, lies where there is room for such, and is
// found again by what is in the directory on disk: the file "memory" there names it. Its
// file "owner" names the directory on disk, and is locked while a process has it. So one
// whose owner is gone for good can be told, and is removed by the next process that looks
// for a place. If one of the two files is damaged or gone, the other will do.
//
// # Not promised
//
// That there is one: the caller can do without.
package memdir

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

const (
	pointerName = "memory" // on disk
	ownerName   = "owner"
	prefix      = "prefixproxy-"
	maxPath     = 4096

	// unownedAge is how old one without an owner must be before it is removed: it may
	// be in the making.
	unownedAge = time.Hour
)

// A Dir is a directory in memory, and locked.
type Dir struct {
	*statedir.Dir
	disk *statedir.Dir
	lock *os.File
}

// Find returns the directory in memory of disk, which it makes in the first of bases
// that will do, where there is none; nil: none will. It removes those in bases that are
// abandoned. Of the two files that name each other, one may be damaged or gone.
func Find(disk *statedir.Dir, bases []string, log *slog.Logger) *Dir {
	path, err := pointer(disk)
	if err == nil {
		var d *Dir
		if d, err = use(disk, path); err == nil {
			return d
		}
	}
	if d := search(disk, bases); d != nil {
		d.point(log)
		return d
	}
	if !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the queue's directory is not usable; what waited there is not found", "err", err)
	}
	for _, base := range bases {
		collect(base, log)
		d, err := create(disk, base)
		if err == nil {
			d.point(log)
			return d
		}
		log.Warn("no directory for the queue here", "dir", base, "err", err)
	}
	return nil
}

// search returns the directory in bases that says it is disk's, or nil. The pointer is wrong, or gone.
func search(disk *statedir.Dir, bases []string) *Dir {
	setAside(disk, pointerName)
	for _, base := range bases {
		for _, path := range list(base) {
			if whose, err := ownerOf(path); err != nil || whose != owner(disk) {
				continue
			}
			if d, err := use(disk, path); err == nil {
				return d
			}
		}
	}
	return nil
}

// list returns what is named like a directory in memory.
func list(base string) (paths []string) {
	entries, _ := os.ReadDir(base)
	for _, e := range entries {
		path, err := filepath.Abs(filepath.Join(base, e.Name()))
		if err == nil && e.IsDir() && isNamed(path) {
			paths = append(paths, path)
		}
	}
	return paths
}

// isNamed says whether path is that of a directory in memory, by its name.
func isNamed(path string) bool {
	return filepath.IsAbs(path) && strings.HasPrefix(filepath.Base(path), prefix)
}

// setAside renames what is in the place of a file, and none.
func setAside(dir *statedir.Dir, name string) {
	if info, err := os.Lstat(filepath.Join(dir.Path(), name)); err == nil && !info.Mode().IsRegular() {
		dir.Rename(name, name+".bad")
	}
}

func pointer(disk *statedir.Dir) (path string, err error) {
	b, err := disk.ReadFile(pointerName, maxPath)
	return strings.TrimSuffix(string(b), "\n"), err
}

// owner is how a directory on disk is named.
func owner(disk *statedir.Dir) string {
	if path, err := filepath.Abs(disk.Path()); err == nil {
		return path
	}
	return disk.Path()
}

// use uses a directory that is there, if it is ours.
func use(disk *statedir.Dir, path string) (*Dir, error) {
	if !isNamed(path) {
		return nil, fmt.Errorf("%q is no directory of a queue", path)
	}
	d, err := open(disk, path, os.O_CREATE)
	if err != nil {
		return nil, err
	}
	whose, err := d.ReadFile(ownerName, maxPath)
	if err == nil && string(whose) == owner(disk) {
		return d, nil
	}
	defer d.Close()
	if err == nil && filepath.IsAbs(string(whose)) && !isSame(string(whose), disk.Path()) && !isAbandoned(path) {
		return nil, fmt.Errorf("%s is of another state directory: %q", path, whose)
	}
	if err := d.WriteFile(ownerName, []byte(owner(disk))); err != nil { // it was moved, or damaged
		return nil, err
	}
	return open(disk, path, 0)
}

func isSame(a, b string) bool {
	one, err := os.Stat(a)
	other, otherErr := os.Stat(b)
	return err == nil && otherErr == nil && os.SameFile(one, other)
}

// open opens and locks a directory; flag is for its file "owner".
func open(disk *statedir.Dir, path string, flag int) (*Dir, error) {
	dir, err := statedir.OpenExisting(path)
	if err != nil {
		return nil, err
	}
	if flag == os.O_CREATE {
		setAside(dir, ownerName)
	}
	lock, err := dir.OpenFile(ownerName, os.O_RDWR|flag, 0o600)
	if err != nil {
		dir.Close()
		return nil, err
	}
	d := &Dir{dir, disk, lock}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	if !d.isThere() {
		d.Close()
		return nil, fmt.Errorf("lock %s: %w", path, fs.ErrNotExist)
	}
	return d, nil
}

// isThere says whether nobody removed the directory before it was locked.
func (d *Dir) isThere() bool {
	locked, err := d.lock.Stat()
	there, thereErr := os.Lstat(d.lock.Name())
	return err == nil && thereErr == nil && os.SameFile(locked, there)
}

// create makes a directory in base for disk. It is locked before it says whose it is, so that nobody
// takes it for one that is abandoned.
func create(disk *statedir.Dir, base string) (*Dir, error) {
	path, err := filepath.Abs(filepath.Join(base, prefix+rand.Text()))
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return nil, err
	}
	d, err := open(disk, path, os.O_CREATE|os.O_EXCL)
	if err == nil {
		if _, err = d.lock.WriteString(owner(disk)); err == nil {
			return d, nil
		}
		d.Close()
	}
	os.RemoveAll(path)
	return nil, err
}

// point makes the directory on disk name this one.
func (d *Dir) point(log *slog.Logger) {
	if err := d.disk.WriteFile(pointerName, []byte(d.Path()+"\n")); err != nil {
		log.Warn("the queue's directory is found only by what it says itself: another daemon may take it for abandoned", "dir", d.Path(), "err", err)
	}
}

// Close ends the use of the directory; what is in it stays.
func (d *Dir) Close() error { return errors.Join(d.lock.Close(), d.Dir.Close()) }

// Remove removes the directory with all files in it, and ends its use; but where a directory in
// it has something, all stays.
func (d *Dir) Remove() error {
	entries, err := os.ReadDir(d.Path())
	for _, e := range entries {
		if e.IsDir() && os.Remove(filepath.Join(d.Path(), e.Name())) != nil {
			return d.Close()
		}
	}
	if err == nil {
		err = d.disk.Remove(pointerName)
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(err, os.RemoveAll(d.Path()), d.Close())
}

// collect removes the directories in base whose owners are gone for good: no process has
// them locked, and their directory on disk is gone, or has another.
func collect(base string, log *slog.Logger) {
	for _, path := range list(base) {
		if !isAbandoned(path) {
			continue
		}
		if d, err := open(nil, path, 0); err == nil {
			if isAbandoned(path) { // still: its owner may have wanted it just then
				os.RemoveAll(path)
				log.Info("queue of a daemon that is gone removed", "dir", path)
			}
			d.Close()
		} else if errors.Is(err, fs.ErrNotExist) {
			os.RemoveAll(path) // its making was interrupted
		}
	}
}

// ownerOf returns what a directory of this user says whose it is.
func ownerOf(path string) (string, error) {
	whose, err := statedir.ReadFile(filepath.Join(path, ownerName), maxPath)
	return string(whose), err
}

// isAbandoned says whether the owner of a directory is gone, or has another, or was
// never written.
func isAbandoned(path string) bool {
	whose, err := ownerOf(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(whose) == 0 {
		info, err := os.Stat(path)
		return err == nil && time.Since(info.ModTime()) > unownedAge
	}
	if err != nil || !filepath.IsAbs(whose) {
		return false
	}
	there, err := statedir.ReadFile(filepath.Join(whose, pointerName), maxPath)
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	other := strings.TrimSuffix(string(there), "\n")
	return err == nil && isNamed(other) && other != path // what is damaged names none
}
