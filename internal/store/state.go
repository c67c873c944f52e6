package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A state is what a store remembers beside the lines: which of them each destination
// still needs.
type state struct {
	ID         uint64        // of the store
	Generation uint64        // counts up from 1
	Named      records.Place // where the log ends
	Held       records.Place
	HeldTodo   records.Spans // wait for a name
	Places     []placeOf
}

// placeOf is the place of one destination.
type placeOf struct {
	Name  string
	Todo  records.Spans              // not delivered
	Again [maxIdle + 1]records.Spans // delivered, and to be sent again; by part.idle
}

const (
	stateName    = "state"
	stateHeader  = "ppstate %d %08x\n" // version of the format, and CRC-32C of the rest, which is JSON
	maxStateSize = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// encode returns the contents of st's file.
func (st *state) encode() []byte {
	body, err := json.Marshal(st)
	if err != nil {
		panic(err) // it has numbers and strings only
	}
	return append(fmt.Appendf(nil, stateHeader, records.Version, crc32.Checksum(body, castagnoli)), body...)
}

var errNoState = errors.New("no state of this version")

// decodeState is the opposite of encode.
func decodeState(b []byte) (st state, err error) {
	var version, sum uint32
	var body []byte
	if i := slices.Index(b, '\n'); i >= 0 {
		body = b[i+1:]
	}
	if _, err := fmt.Sscanf(string(b[:len(b)-len(body)]), stateHeader, &version, &sum); err != nil || version != records.Version || sum != crc32.Checksum(body, castagnoli) {
		return st, errNoState
	}
	if err := json.Unmarshal(body, &st); err != nil {
		return state{}, fmt.Errorf("%w: %w", errNoState, err)
	}
	all := []records.Spans{st.HeldTodo}
	for _, p := range st.Places {
		all = append(append(all, p.Todo), p.Again[:]...)
	}
	if !st.Named.IsSound() || !st.Held.IsSound() || slices.ContainsFunc(all, func(ss records.Spans) bool { return !ss.AreSound() }) {
		return state{}, errNoState
	}
	return st, nil
}

// readState returns the state in a directory.
func readState(dir *statedir.Dir) (st state, err error) {
	b, err := dir.ReadFile(stateName, maxStateSize)
	if err != nil {
		return st, err
	}
	return decodeState(b)
}

// state returns what is to be saved. s.mu is held.
func (s *Store) state() state {
	st := state{ID: s.id, Generation: s.generation, Named: s.named.tail, Held: s.held.tail, HeldTodo: s.held.all()}
	for _, c := range s.cursors {
		p := placeOf{Name: c.Name, Todo: c.needs.undelivered(nil)}
		for _, part := range c.parts {
			if part.delivered && !part.lost {
				p.Again[part.idle].Add(part.Span)
			}
		}
		st.Places = append(st.Places, p)
	}
	return st
}

// writeState writes st's file.
func (s *Store) writeState(dir *statedir.Dir, st state, sync bool) error {
	return s.files.replace(dir, stateName, func(f *os.File) error {
		err := s.files.write(f, st.encode(), nil, 0)
		if err == nil && sync {
			err = s.files.sync(f.Name(), f)
		}
		return err
	})
}

// save makes the state outlive the process. s.mu is held.
func (s *Store) save() {
	s.generation++
	var err error
	if s.memory != nil {
		if err = s.writeState(s.memory.Dir, s.state(), false); err != nil {
			s.unkept(err)
		}
	}
	if err != nil || s.diskUsed > 0 || s.wasUsed {
		s.dirty = true
		notify(s.work)
	}
}
