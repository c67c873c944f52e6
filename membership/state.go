package membership

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrLocked is the error of OpenState when another process uses the directory.
var ErrLocked = errors.New("another prefixproxy uses it")

// State is the directory in which a holder remembers its claim from one start
// to the next. It is locked from OpenState to Close, by a lock that ends with
// the process at the latest.
type State struct {
	dir   string
	lock  *os.File
	place place
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
	Place    place            `json:"place"`

	here bool // Place is the place that reads it
}

const (
	lockFile   = "lock"
	memoryFile = "claim.json"
)

// OpenState opens the directory dir, which it makes (0700) when it is not
// there, and locks it. The error is ErrLocked when another process has.
func OpenState(dir string) (*State, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the state directory: %w", err)
	}
	here, err := lockPlace(lock)
	if err != nil {
		lock.Close()
		return nil, fmt.Errorf("lock the state directory %s: %w", dir, err)
	}
	return &State{dir: dir, lock: lock, place: here}, nil
}

// Dir returns the directory.
func (s *State) Dir() string { return s.dir }

// Close unlocks the directory.
func (s *State) Close() error { return s.lock.Close() }

// load returns what was saved last; nil when there is nothing.
func (s *State) load() (*memory, error) {
	data, err := os.ReadFile(filepath.Join(s.dir, memoryFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var m memory
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("%s holds no claim: %w", filepath.Join(s.dir, memoryFile), err)
	}
	m.here = m.Place == s.place && m.Place.Boot != ""
	return &m, nil
}

// save replaces what was saved last, whole or not at all.
func (s *State) save(m memory) error {
	m.Place = s.place
	data, err := json.Marshal(m)
	if err != nil {
		return err
	}
	path := filepath.Join(s.dir, memoryFile)
	f, err := os.Create(path + ".new") // the lock makes us the only writer
	if err != nil {
		return err
	}
	_, err = f.Write(append(data, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
