package store

import "slices"

// This file is who gets every line.

// SetDestinations changes who is to get every line. One that was not there gets what
// comes from now on. The lines of one that is there no more are dropped, and counted;
// its cursor says that it is drained. What waits already stays, where less is allowed.
// It returns who took over the place of whom: of one without a name.
func (s *Store) SetDestinations(to []Destination) (from, heir string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, c := range s.cursors {
		names = append(names, c.Name)
	}
	if from, heir, ok = inherit(names, to); ok {
		c := s.cursor(from)
		c.Name, c.books.Destination = heir, heir
	}
	kept := make([]*Cursor, 0, len(to))
	for _, d := range to {
		c := s.cursor(d.Name)
		if c == nil {
			c = s.newCursor(d)
			if i := slices.IndexFunc(s.removed, func(b Books) bool { return b.Destination == d.Name }); i >= 0 {
				c.books = s.removed[i] // it counts on
				c.books.Removed = false
				s.removed = slices.Delete(s.removed, i, i+1)
			}
			c.books.Adopted += uint64(s.held.left())
		}
		c.Destination = d
		c.excess = c.bytes + s.segmentSize
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
	return from, heir, ok
}

// inherit says who takes over the place of whom. Where a destination had no name, as
// one that is alone, the first new one takes its place; and it that of the first that
// is gone. Those that have names are strangers.
func inherit(names []string, to []Destination) (from, heir string, ok bool) {
	var gone, added []string
	for _, name := range names {
		if !slices.ContainsFunc(to, func(d Destination) bool { return d.Name == name }) {
			gone = append(gone, name)
		}
	}
	for _, d := range to {
		if !slices.Contains(names, d.Name) {
			added = append(added, d.Name)
		}
	}
	if len(gone) == 0 || len(added) == 0 {
		return "", "", false
	}
	if slices.Contains(gone, "") {
		return "", added[0], true
	}
	return gone[0], "", slices.Contains(added, "")
}

// cursor returns the cursor of a destination, or nil. s.mu is held.
func (s *Store) cursor(name string) *Cursor {
	for _, c := range s.cursors {
		if c.Name == name {
			return c
		}
	}
	return nil
}

// Cursor returns the place of a destination; nil: there is no such.
func (s *Store) Cursor(name string) *Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cursor(name)
}

func (s *Store) newCursor(d Destination) *Cursor {
	return &Cursor{Destination: d, store: s, books: Books{Destination: d.Name}, more: make(chan struct{}, 1)}
}

// retire ends the use of a cursor; its lines are dropped. s.mu is held.
func (s *Store) retire(c *Cursor) {
	left := c.undelivered().Lines() + s.held.left()
	s.out.Info("destination removed", "destination", c.Name, "lines_dropped", left)
	c.books.Dropped[Shutdown] += uint64(left)
	c.books.Removed = true
	c.ahead.Free()
	c.needs = needs{}
	notify(c.more)
	s.removed = append(s.removed, c.books)
}
