package store

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A state is what a store remembers besides the lines: which of them each destination still
// needs.
type state struct {
	ID         uint64        // of the store
	Generation uint64        // counts up from 1, whenever something is delivered or lost
	Sync       uint64        // counts up whenever the disk's is written
	Named      records.Place // where the log ends
	Held       records.Place
	HeldTodo   records.Spans // wait for a name
	Places     []placeOf
	Partial    bool // it leaves out lines in memory
}

// placeOf is the place of one destination.
type placeOf struct {
	Name  string
	To    []string
	Todo  records.Spans              // not delivered
	Again [maxIdle + 1]records.Spans // delivered, and to be sent again; as needs.done
}

const (
	stateHeader  = "ppstate %d %d %08x\n" // version of the format, size and CRC-32C of what follows, which is JSON
	maxStateSize = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the contents of st's file.
func (st *state) encode() []byte {
	body, err := json.Marshal(st)
	if err != nil {
		panic(err) // it has numbers and strings only
	}
	return append(fmt.Appendf(nil, stateHeader, records.Version, len(body), crc32.Checksum(body, castagnoli)), body...)
}

var errNoState = errors.New("no state of a store")

// decodeState returns the state with which b begins.
func decodeState(b []byte) (st state, err error) {
	var version, size int
	var sum uint32
	header, body, _ := bytes.Cut(b, []byte{'\n'})
	if _, err := fmt.Sscanf(string(header)+"\n", stateHeader, &version, &size, &sum); err != nil ||
		size < 0 || size > len(body) || sum != crc32.Checksum(body[:size], castagnoli) {
		return st, errNoState
	}
	if version > records.Version {
		return st, records.ErrLater
	}
	if err := json.Unmarshal(body[:size], &st); err != nil {
		return state{}, fmt.Errorf("%w: %w", errNoState, err)
	}
	return st, nil
}

// state returns what to save, as its file holds it. What is for a power failure leaves out lines in
// memory that may be delivered by then: what was sent, and everything while the disk is not in use
// and not synced every second.
func (s *Store) state(powerFails bool) []byte {
	isUsed := !powerFails || s.used[onDisk] > 0
	st := state{ID: s.id, Generation: s.generation, Sync: s.syncs, Named: s.named.tail, Held: s.held.tail, Partial: powerFails}
	if isUsed {
		st.HeldTodo = s.Held.todo
	}
	for _, c := range s.cursors {
		p := placeOf{Name: c.Name, To: c.To, Again: c.done}
		if isUsed {
			p.Todo = slices.Clone(c.todo)
		}
		for _, sp := range c.lost {
			p.Todo.Add(sp)
		}
		if powerFails {
			for _, sent := range c.sent {
				p.Todo.Remove(sent.Within(s.named.in(inMemory)))
			}
		}
		st.Places = append(st.Places, p)
	}
	return st.encode()
}

// A stateFile is two files that are overwritten in turn: a process that is killed while it
// writes one leaves the other. (Replacing a file on tmpfs takes 50 µs or more.)
type stateFile struct {
	dir   *statedir.Dir // nil: none
	files [2]*os.File   // nil: not open yet
	turn  int
}

func stateName(i int) string { return fmt.Sprintf("state-%d", i) }

// load returns the newest sound state; errNoState: a file is not sound.
func (f *stateFile) load() (newest state, err error) {
	for i := range f.files {
		st, readErr := f.read(stateName(i))
		if readErr != nil && !errors.Is(readErr, errNoState) {
			return newest, readErr
		}
		err = errors.Join(err, readErr)
		if cmp.Or(cmp.Compare(st.Generation, newest.Generation), cmp.Compare(st.Sync, newest.Sync)) > 0 {
			newest, f.turn = st, 1-i
		}
	}
	return newest, err
}

func (f *stateFile) read(name string) (st state, err error) {
	b, err := f.dir.ReadFile(name, maxStateSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return st, nil
	case err == nil:
		st, err = decodeState(b)
	case isDamage(err) || errors.Is(err, statedir.ErrTooLong):
		err = errors.Join(fmt.Errorf("%w: %w", errNoState, err), f.dir.Rename(name, name+".bad"))
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Join(f.dir.Path(), name), err)
	}
	return st, err
}

// write writes a state; the one before it stays.
func (f *stateFile) write(o files, state []byte, sync bool) (err error) {
	file := &f.files[f.turn]
	if *file == nil { // what is there may be a file elsewhere, too
		if err = o.remove(f.dir, stateName(f.turn)); err != nil {
			return err
		}
		if *file, err = o.create(f.dir, stateName(f.turn)); err != nil {
			return err
		}
	}
	if err = o.write(*file, state, nil, 0); err == nil && sync {
		err = o.sync((*file).Name(), *file)
	}
	if err == nil {
		f.turn = 1 - f.turn
	}
	return err
}

// saving is what is known about the state's files.
type saving struct {
	states     [2]stateFile // by tier; the disk's is sync's
	generation uint64       // of what was saved last
	syncs      uint64       // by this process
	unsaved    bool         // by memory's state
}

// save makes the state survive the process.
func (s *Store) save() {
	s.generation++
	if s.memory != nil {
		err := s.states[inMemory].write(s.files, s.state(false), false)
		if s.unsaved = err != nil; s.unsaved {
			s.unkept(err)
		}
	}
	if s.unsaved || s.used[onDisk] > 0 {
		notify(s.dirty)
	}
}
