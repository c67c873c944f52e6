package store

import (
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// heldLines are the lines without a name.
type heldLines struct {
	log
	todo  records.Spans // wait
	taken records.Chunk // of todo: in the hands of who names
	queue queue         // that it goes to
	ahead records.Chunk // of todo: read from disk
}

// hold updates what IsHolding returns.
func (s *Store) hold() {
	isHolding := s.held.todo.Touches(s.held.in(inMemory))
	if s.holding.Store(isHolding); s.closed && !isHolding {
		s.tellAll() // it may have been all that was waited for
	}
}

// IsHolding says whether lines in memory wait for a name: later ones must queue up behind them
// to keep their order.
func (s *Store) IsHolding() bool { return s.holding.Load() }

// TakeHeld hands over some lines that wait for a name: the oldest in memory or, if there are
// none and some destination has little else to send, the oldest on disk. They are there, and count
// as held, until FinishHeld. One goroutine calls the two in turn, and Expire.
func (s *Store) TakeHeld() (lines records.Chunk, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	for {
		sp, q := h.todo.First(h.in(inMemory)), fresh
		if sp.IsEmpty() {
			sp, q = h.todo.First(h.in(onDisk)), late
			if !h.ahead.Begins(sp) {
				notify(s.work)
				return lines, false
			}
		}
		lines, err := s.load(&h.log, sp, &h.ahead)
		if err != nil {
			return lines, false // who names asks again
		}
		if !lines.IsEmpty() && h.todo.Holds(lines.Span) {
			h.taken, h.queue = lines, q
			return lines, true
		}
		lines.Free()
	}
}

// FinishHeld ends the waiting of what TakeHeld handed over. named calls put, in the same
// instant, for what became of the lines; it isn't called if they had to make room meanwhile.
func (s *Store) FinishHeld(named func(put func(lines []byte, n int, born time.Time))) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	if h.todo.Holds(h.taken.Span) {
		named(func(lines []byte, n int, born time.Time) { s.put(&s.named, lines, n, born, h.queue) })
		h.todo.Remove(h.taken.Span)
	}
	h.taken.Free()
	s.bound()
	s.settle()
}

// Expire drops held lines that arrived before a time.
func (s *Store) Expire(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := (records.Span{To: s.held.since(before)}); s.held.todo.Touches(old) {
		s.lose(&s.held.log, old, NoName)
		s.settle()
	}
}
