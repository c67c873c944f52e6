// Package state is what a holder of names remembers from one start to the next: its last claim, and
// its own tenures. It lies in a directory that is locked, and that tells a copy of it from itself.
//
//	dir.go      the directory, and the file in it
//	tenures.go  our own tenures
//	own.go      what is remembered now, and saved beside the lease
//
// Not promised: that everything is on disk when a call returns. Without the file, a restart only
// knows less.
package state

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// ErrLocked is the error of Open when another process uses the directory.
var ErrLocked = errors.New("another prefixproxy uses it")

// A Dir is the directory in which a holder remembers its claim. It is locked from Open to Close, at
// the latest until the process ends.
type Dir struct {
	Files
	lock  *os.File
	place Place
}

// Files is where it lies: a *statedir.Dir.
type Files interface {
	Path() string
	ReadFile(name string, most int64) ([]byte, error)
	WriteFile(name string, data []byte) error
	Close() error
}

// A Place is this boot of this host, and this directory and no copy of it: whoever holds the lock
// and finds its own place in a memory knows that the process which wrote it has ended.
type Place struct {
	Boot   string `json:"boot"`   // random, new at each boot; "" where the system has none
	Device uint64 `json:"device"` // of the lock file
	Inode  uint64 `json:"inode"`  // of the lock file, which a copy has not
}

// A Claim is the last one, or the last name.
type Claim struct {
	Pool     string           `json:"pool"`
	Name     string           `json:"name"`
	Lease    clientv3.LeaseID `json:"lease,omitempty"`    // 0: the name was released
	Revision int64            `json:"revision,omitempty"` // at which its key was created
	TTL      time.Duration    `json:"ttl_ns,omitempty"`   // that was granted
	Record   string           `json:"record,omitempty"`   // the last part of the key of the tenure's record
	Start    int64            `json:"start,omitempty"`    // the tenure's first whole second
	Place    Place            `json:"place"`

	// UsableFrom is when the claim may be used, by this boot's clock; 0: at once. A copy that
	// is started keeps waiting for its original.
	UsableFrom time.Duration `json:"usable_from_ns,omitempty"`

	Here   bool `json:"-"` // Place is the place that reads it
	copied bool // it was written elsewhere than in this directory
}

// Tenure returns the start and the record of the tenure of m, if m was written during this boot.
// During another boot, it may have been another machine's.
func (m *Claim) Tenure() (from time.Time, record string, ok bool) {
	from, ok = pool.StartOf(m.Name, m.Record)
	return from, m.Record, ok && m.Here
}

// saved is the file of the state.
type saved struct {
	Claim

	// Tenures are the names that we have held, the latest last: Carbon lines with times in them
	// get those names.
	Tenures Tenures `json:"tenures"`
}

// A Tenure is one of our own. Its times are in whole Unix seconds, both included.
type Tenure struct {
	Name   string `json:"name"`
	Record string `json:"record"` // the last part of its record's key
	Start  int64  `json:"start"`
	End    int64  `json:"end,omitempty"` // 0: it lasts, or a crash left no end

	// Elsewhere says that it had no end during another boot, which may have been another
	// machine's: a clone's.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

const (
	lockFile     = "lock"
	memoryFile   = "claim.json"
	maxStateFile = 16 << 20 // bounds what is read of one, in bytes
)

// Open opens and locks the directory dir, and creates it (0700) if it is not there. The
// error is ErrLocked if another process has it. A directory that is another user's, or that others
// may write to, is refused: we would take a name or a tenure planted there for ours.
func Open(dir string) (*Dir, error) {
	d, err := statedir.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	s := New(d, Place{})
	if err = writable(dir); err == nil {
		s.lock, err = openLock(d)
	}
	if err != nil {
		d.Close()
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	if s.place, err = lockPlace(s.lock); err != nil {
		s.Close()
		return nil, fmt.Errorf("lock the state directory %s: %w", dir, err)
	}
	return s, nil
}

// New returns a directory at a place, and locks nothing: for simulated hosts.
func New(files Files, at Place) *Dir { return &Dir{Files: files, place: at} }

// openLock opens the file of the lock. What is no plain file holds none: it goes.
func openLock(d *statedir.Dir) (*os.File, error) {
	const flag = os.O_RDONLY | os.O_CREATE
	file, err := d.OpenFile(lockFile, flag, 0o600)
	if errors.Is(err, statedir.ErrNotAFile) {
		if err = d.Remove(lockFile); err == nil {
			return d.OpenFile(lockFile, flag, 0o600)
		}
	}
	return file, err
}

// Close unlocks the directory.
func (s *Dir) Close() error { return errors.Join(s.lock.Close(), s.Files.Close()) }

// load returns what was saved last, nil if there is nothing, and the own tenures in a pool. Those of
// another pool, or of a directory that was copied, are not ours.
func (s *Dir) load(in string) (*Claim, Tenures, error) {
	data, err := s.ReadFile(memoryFile, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var f saved
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", filepath.Join(s.Path(), memoryFile), err)
	}
	f.Here = f.Place == s.place && f.Place.Boot != ""
	f.copied = f.Place.Inode != s.place.Inode
	if f.Pool != in || f.copied {
		f.Tenures = nil
	}
	own := slices.DeleteFunc(f.Tenures, func(t Tenure) bool { return !pool.IsName(t.Name) })
	for i := range own {
		own[i].Elsewhere = own[i].Elsewhere || own[i].End == 0 && !f.Here
	}
	return &f.Claim, own, nil
}

// save replaces what was saved last, completely or not at all.
func (s *Dir) save(f saved) error {
	f.Place = s.place
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	return s.WriteFile(memoryFile, append(data, '\n'))
}
