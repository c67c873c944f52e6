package store

import (
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// This file is about who gets every line.

// SetDestinations changes who gets every line. A new destination gets what arrives from now on.
// The lines of one that is gone are dropped and counted, but for those that its session ends
// with; its cursor says that it is drained. What already waits stays, even if less is allowed
// now. It returns the former names of those that have been renamed.
func (s *Store) SetDestinations(to []Destination) (renamed map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	renamed = s.rename(to)
	kept := make([]*Cursor, 0, len(to))
	for _, d := range to {
		c := s.cursor(d.Name)
		if c == nil {
			c = s.newCursor(d)
			if i := indexOf(s.removed, d.Name); i >= 0 { // it counts on
				s.removed[i].giveUp(false)
				c.books = s.removed[i].books
				c.books.Removed = false
				s.removed = slices.Delete(s.removed, i, i+1)
			}
			c.books.Adopted += uint64(s.held.left())
		}
		c.Destination = d
		c.excess = c.todo.Bytes() + s.segmentSize
		kept = append(kept, c)
	}
	for _, c := range s.cursors {
		if !slices.Contains(kept, c) {
			s.retire(c)
		}
	}
	s.cursors = kept
	s.resize()
	s.settle()
	return renamed
}

// rename gives the places of destinations that are gone to new ones: to one that has an address
// of theirs or, if either has no name, since it was alone, to the first. The others are
// strangers. s.mu is held.
func (s *Store) rename(to []Destination) (renamed map[string]string) {
	renamed = map[string]string{}
	for _, isSame := range []func(a, b Destination) bool{
		func(a, b Destination) bool {
			return slices.ContainsFunc(a.To, func(address string) bool { return slices.Contains(b.To, address) })
		},
		func(a, b Destination) bool { return a.Name == "" || b.Name == "" },
	} {
		for _, d := range to {
			wasThere := indexOf(s.removed, d.Name) >= 0
			i := slices.IndexFunc(s.cursors, func(c *Cursor) bool {
				isGone := !slices.ContainsFunc(to, func(d Destination) bool { return d.Name == c.Name })
				return isGone && isSame(c.Destination, d)
			})
			if i < 0 || wasThere || s.cursor(d.Name) != nil {
				continue
			}
			c := s.cursors[i]
			s.out.Info("destination renamed", "from", c.Name, "to", d.Name)
			renamed[d.Name] = c.Name
			c.Name, c.books.Destination = d.Name, d.Name
		}
	}
	return renamed
}

// cursor returns the cursor of a destination, or nil. s.mu is held.
func (s *Store) cursor(name string) *Cursor {
	if i := indexOf(s.cursors, name); i >= 0 {
		return s.cursors[i]
	}
	return nil
}

func indexOf(all []*Cursor, name string) int {
	return slices.IndexFunc(all, func(c *Cursor) bool { return c.Name == name })
}

// Cursor returns the place of a destination, or nil if there is none of that name.
func (s *Store) Cursor(name string) *Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor(name)
}

func (s *Store) newCursor(d Destination) *Cursor {
	return &Cursor{Destination: d, store: s, books: Books{Destination: d.Name}, more: make(chan struct{}, 1)}
}

// retire ends the use of a cursor. What its session has sent is dropped at its end, if the
// destination doesn't have it by then; all else at once. s.mu is held.
func (s *Store) retire(c *Cursor) {
	before := c.books.Dropped[Shutdown]
	c.lose(records.Span{To: records.End}, Shutdown)
	c.books.Dropped[Shutdown] += uint64(s.held.left())
	c.books.Removed = true
	c.ahead.Free()
	s.out.Info("destination removed", "destination", c.Name, "lines_dropped", c.books.Dropped[Shutdown]-before)
	s.removed = append(s.removed, c)
}
