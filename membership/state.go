package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// ErrLocked is the error of OpenState when another process uses the directory.
var ErrLocked = errors.New("another prefixproxy uses it")

// State is the directory in which a holder remembers its claim from one start
// to the next. It is locked from OpenState to Close, by a lock that ends with
// the process at the latest.
type State struct {
	dir   *statedir.Dir
	lock  *os.File
	place place

	writing sync.Mutex // held while a file is written
}

// A place is this boot of this host, and this directory and no copy of it: who
// finds its own place in a memory under the lock knows that the process which
// wrote it has ended.
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

	// UsableFrom is when the claim may be used, by this boot's clock; 0: at
	// once. A copy that starts again goes on waiting for its original.
	UsableFrom time.Duration `json:"usable_from_ns,omitempty"`

	here   bool // Place is the place that reads it
	copied bool // it was written elsewhere than in this directory
}

// goesOn returns the start and the record of the tenure t, which begins by
// taking over m: those that there were before, if m was written at this boot.
// At another one it may have been another machine's.
func (m *memory) goesOn(t Tenure) (from time.Time, id string) {
	part := recordKeyForm.FindStringSubmatch(m.Name + "/" + m.Record)
	if !m.here || part == nil {
		return t.From, t.id
	}
	milli, err := strconv.ParseInt(m.Record[:13], 10, 64)
	if err != nil {
		return t.From, t.id
	}
	return time.UnixMilli(milli), m.Record
}

// saved is the file of the state.
type saved struct {
	memory

	// Tenures are the names that we have held, the latest last: Carbon lines of
	// their time are theirs. Until 2026 they were a file of their own, which is read
	// where there is none here.
	Tenures []ownTenure `json:"tenures"`
}

// ownTenures is that file.
type ownTenures struct {
	Pool    string      `json:"pool"`
	Place   place       `json:"place"`
	Tenures []ownTenure `json:"tenures"`
}

// An ownTenure is in whole Unix seconds, both included.
type ownTenure struct {
	Name   string `json:"name"`
	Record string `json:"record"` // the last part of its record's key
	Start  int64  `json:"start"`
	End    int64  `json:"end,omitempty"` // 0: it lasts, or a crash left no end

	// Elsewhere says that it had no end at another boot, which may have been
	// another machine's: of a clone.
	Elsewhere bool `json:"elsewhere,omitempty"`
}

const (
	lockFile       = "lock"
	memoryFile     = "claim.json"
	oldTenuresFile = "tenures.json"
)

// OpenState opens the directory dir, which it makes (0700) when it is not
// there, and locks it. The error is ErrLocked when another process has. One that is
// another user's, or that others may write, is refused: a name or a tenure planted
// there would be taken for ours.
func OpenState(dir string) (*State, error) {
	d, err := statedir.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	s := &State{dir: d}
	if s.lock, err = d.OpenFile(lockFile, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		d.Close()
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	if s.place, err = lockPlace(s.lock); err != nil {
		s.Close()
		return nil, fmt.Errorf("lock the state directory %s: %w", dir, err)
	}
	return s, nil
}

// Dir returns the path of the directory.
func (s *State) Dir() string { return s.dir.Path() }

// Close unlocks the directory.
func (s *State) Close() error { return errors.Join(s.lock.Close(), s.dir.Close()) }

// load returns what was saved last: nil when there is nothing, and the own
// tenures in pool. Those of another pool, and of a directory that was copied, are
// not ours.
func (s *State) load(pool string) (*memory, []ownTenure, error) {
	var f saved
	found, err := s.read(memoryFile, &f)
	own := ownTenures{Pool: f.Pool, Place: f.Place, Tenures: f.Tenures}
	if err == nil && f.Tenures == nil {
		_, err = s.read(oldTenuresFile, &own)
	}
	if own.Pool != pool || own.Place.Inode != s.place.Inode {
		own.Tenures = nil
	}
	for i := range own.Tenures {
		t := &own.Tenures[i]
		t.Elsewhere = t.Elsewhere || t.End == 0 && (own.Place != s.place || s.place.Boot == "")
	}
	tenures := slices.DeleteFunc(own.Tenures, func(t ownTenure) bool { return !isName(t.Name) })
	if !found {
		return nil, tenures, err
	}
	f.here = f.Place == s.place && f.Place.Boot != ""
	f.copied = f.Place.Inode != s.place.Inode
	return &f.memory, tenures, err
}

// save replaces what was saved last, whole or not at all.
func (s *State) save(m memory, own []ownTenure) error {
	m.Place = s.place
	if own == nil {
		own = []ownTenure{}
	}
	if err := s.write(memoryFile, saved{m, own}); err != nil {
		return err
	}
	if err := s.dir.Remove(oldTenuresFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// A saver saves in a goroutine of its own: a disk may take half a minute, and a
// renewal must not wait for it. Of several things to be saved it takes the last.
type saver struct {
	state *State // nil: nothing is saved
	log   *slog.Logger
	wake  chan struct{}

	mu      sync.Mutex
	waiting *saved
	done    chan struct{} // closed when waiting is saved, or can't be
}

func newSaver(state *State, log *slog.Logger) *saver {
	return &saver{state: state, log: log, wake: make(chan struct{}, 1)}
}

// save has m and own saved. What it returns is closed then.
func (s *saver) save(m memory, own []ownTenure) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
	}
	done := s.done
	if s.state == nil {
		close(s.done)
		s.done = nil
		return done
	}
	s.waiting = &saved{m, slices.Clone(own)}
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return done
}

// run saves until ctx ends, and then what is left.
func (s *saver) run(ctx context.Context) {
	for {
		select {
		case <-s.wake:
			s.write()
		case <-ctx.Done():
			s.write()
			return
		}
	}
}

func (s *saver) write() {
	s.mu.Lock()
	f, done := s.waiting, s.done
	s.waiting, s.done = nil, nil
	s.mu.Unlock()
	if f == nil {
		return
	}
	if err := s.state.save(f.memory, f.Tenures); err != nil {
		s.log.Warn("claim not saved; a restart will not know it", "dir", s.state.Dir(), "err", err)
	}
	close(done)
}

// maxStateFile bounds what is read of a file, in bytes.
const maxStateFile = 16 << 20

// read reads a file of the directory into v; found is false when it is not
// there, or of no use.
func (s *State) read(file string, v any) (found bool, err error) {
	data, err := s.dir.ReadFile(file, maxStateFile)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("read %s: %w", filepath.Join(s.Dir(), file), err)
	}
	return true, nil
}

// write replaces a file of the directory by v, whole or not at all.
func (s *State) write(file string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	return s.dir.WriteFile(file, append(data, '\n'))
}
