package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/statedir"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// ErrLocked is the error of OpenStateDir when another process uses the directory.
var ErrLocked = errors.New("another prefixproxy uses it")

// A StateDir is the directory in which a holder remembers its claim from one start to the next. It
// is locked from OpenStateDir to Close, at the latest until the process ends.
type StateDir struct {
	dir   *statedir.Dir
	lock  *os.File
	place place

	writing sync.Mutex // held while a file is written
}

// A place is this boot of this host, and this directory and no copy of it: whoever holds the lock
// and finds its own place in a memory knows that the process which wrote it has ended.
type place struct {
	Boot   string `json:"boot"`   // random, new at each boot; "" where the system has none
	Device uint64 `json:"device"` // of the lock file
	Inode  uint64 `json:"inode"`  // of the lock file, which a copy has not
}

// A memory is what is remembered: the last claim, or the last name.
type memory struct {
	Pool     string           `json:"pool"`
	Name     string           `json:"name"`
	Lease    clientv3.LeaseID `json:"lease,omitempty"`    // 0: the name was released
	Revision int64            `json:"revision,omitempty"` // at which its key was created
	TTL      time.Duration    `json:"ttl_ns,omitempty"`   // that was granted
	Record   string           `json:"record,omitempty"`   // the last part of the key of the tenure's record
	Start    int64            `json:"start,omitempty"`    // the tenure's first whole second
	Place    place            `json:"place"`

	// UsableFrom is when the claim may be used, by this boot's clock; 0: at once. A copy that
	// is started keeps waiting for its original.
	UsableFrom time.Duration `json:"usable_from_ns,omitempty"`

	here   bool // Place is the place that reads it
	copied bool // it was written elsewhere than in this directory
}

// goesOn returns the start and the record of the tenure t, which begins by taking over m: those
// from before if m was written during this boot. During another boot, it may have been another
// machine's.
func (m *memory) goesOn(t pool.Tenure) (from time.Time, id string) {
	if from, ok := pool.StartOf(m.Name, m.Record); ok && m.here {
		return from, m.Record
	}
	return t.From, t.ID
}

// saved is the file of the state.
type saved struct {
	memory

	// Tenures are the names that we have held, the latest last: Carbon lines with times in them
	// get those names.
	Tenures ownTenures `json:"tenures"`
}

// An ownTenure is in whole Unix seconds, both included.
type ownTenure struct {
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

// OpenStateDir opens and locks the directory dir, and creates it (0700) if it is not there. The
// error is ErrLocked if another process has it. A directory that is another user's, or that others
// may write to, is refused: we would take a name or a tenure planted there for ours.
func OpenStateDir(dir string) (*StateDir, error) {
	d, err := statedir.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	s := &StateDir{dir: d}
	if s.lock, err = openLock(d); err != nil {
		d.Close()
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	if s.place, err = lockPlace(s.lock); err != nil {
		s.Close()
		return nil, fmt.Errorf("lock the state directory %s: %w", dir, err)
	}
	return s, nil
}

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

// Dir returns the path of the directory.
func (s *StateDir) Dir() string { return s.dir.Path() }

// Close unlocks the directory.
func (s *StateDir) Close() error { return errors.Join(s.lock.Close(), s.dir.Close()) }

// load returns what was saved last, nil if there is nothing, and the own tenures in a pool. Those of
// another pool, or of a directory that was copied, are not ours.
func (s *StateDir) load(in string) (*memory, ownTenures, error) {
	data, err := s.dir.ReadFile(memoryFile, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var f saved
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", filepath.Join(s.Dir(), memoryFile), err)
	}
	f.here = f.Place == s.place && f.Place.Boot != ""
	f.copied = f.Place.Inode != s.place.Inode
	if f.Pool != in || f.copied {
		f.Tenures = nil
	}
	own := slices.DeleteFunc(f.Tenures, func(t ownTenure) bool { return !pool.IsName(t.Name) })
	for i := range own {
		own[i].Elsewhere = own[i].Elsewhere || own[i].End == 0 && !f.here
	}
	return &f.memory, own, nil
}

// save replaces what was saved last, completely or not at all.
func (s *StateDir) save(f saved) error {
	f.Place = s.place
	data, err := json.Marshal(f)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.dir.WriteFile(memoryFile, append(data, '\n'))
}
