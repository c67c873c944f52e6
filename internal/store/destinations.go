package store

import (
	"math"
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
	renamed = rename(s.cursors, s.removed, to)
	for name, former := range renamed {
		s.out.Info("destination renamed", "from", former, "to", name)
	}
	kept := make([]*Cursor, 0, len(to))
	for _, d := range to {
		c := find(s.cursors, d.Name)
		if c == nil {
			c = newCursor(s, d)
			if former := find(s.removed, d.Name); former != nil { // it counts on
				former.giveUp(false)
				c.books = former.books
				c.books.Removed = false
				s.removed = slices.DeleteFunc(s.removed, func(r *Cursor) bool { return r == former })
			}
			c.books.Adopted += uint64(s.Held.todo.Lines())
		}
		c.Destination = d
		for _, upstream := range d.To {
			c.books.Forwarded[upstream] += 0
		}
		kept = append(kept, c)
	}
	for _, c := range s.cursors {
		if !slices.Contains(kept, c) {
			c.retire()
		}
	}
	s.cursors = kept
	s.resize(to)
	notify(s.work)
	s.settle()
	s.bound()
	return renamed
}

// rename gives the places of destinations that are gone to new ones: to one that has an address
// of theirs or, if either has no name, since it was alone, to the first. The others are
// strangers, and so is one of a name that was removed before.
func rename(all, removed []*Cursor, to []Destination) (renamed map[string]string) {
	renamed = map[string]string{}
	for _, byAddress := range []bool{true, false} {
		for _, d := range to {
			i := slices.IndexFunc(all, func(c *Cursor) bool {
				isSame := c.Name == "" || d.Name == ""
				if byAddress {
					isSame = slices.ContainsFunc(c.To, func(a string) bool { return slices.Contains(d.To, a) })
				}
				return isSame && !slices.ContainsFunc(to, func(d Destination) bool { return d.Name == c.Name })
			})
			if i >= 0 && find(removed, d.Name) == nil && find(all, d.Name) == nil {
				renamed[d.Name], all[i].Name = all[i].Name, d.Name
			}
		}
	}
	return renamed
}

// find returns the cursor of that name, or nil.
func find(all []*Cursor, name string) *Cursor {
	if i := slices.IndexFunc(all, func(c *Cursor) bool { return c.Name == name }); i >= 0 {
		return all[i]
	}
	return nil
}

// Cursor returns the place of a destination, or nil if there is none of that name.
func (s *Store) Cursor(name string) *Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return find(s.cursors, name)
}

func newCursor(s *Store, d Destination) *Cursor {
	return &Cursor{Destination: d, reader: newReader(&s.named), store: s, books: Books{Forwarded: map[string]uint64{}}, most: math.MaxInt64}
}

// retire ends the use of a cursor. What its session has sent is dropped at its end, if the
// destination doesn't have it by then; all else at once.
func (c *Cursor) retire() {
	s := c.store
	before := c.books.Dropped[Shutdown]
	c.lose(records.Span{To: records.End}, Shutdown)
	c.books.Dropped[Shutdown] += uint64(s.Held.todo.Lines())
	c.books.Removed = true
	c.ahead.Free()
	s.out.Info("destination removed", "destination", c.Name, "lines_dropped", c.books.Dropped[Shutdown]-before)
	s.removed = append(s.removed, c)
}
