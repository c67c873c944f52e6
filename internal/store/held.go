package store

import (
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// heldLines are the lines without a name. The store's mutex guards them.
type heldLines struct {
	log
	todo  records.Spans // wait
	taken records.Chunk // of todo: in the hands of who names
	queue queue         // that it goes to
	ahead records.Chunk // of todo: read from disk
}

// lose drops the waiting lines in sp, but for those that get their name just then.
func (h *heldLines) lose(s *Store, sp records.Span, why Reason) {
	n, _ := h.todo.Remove(sp)
	if taken := h.taken.Within(sp); !taken.IsEmpty() {
		h.todo.Add(taken)
		n -= taken.Lines()
	}
	for _, c := range s.cursors {
		c.books.Dropped[why] += uint64(n)
	}
	s.hold()
}

// hold updates what IsHolding returns. s.mu is held.
func (s *Store) hold() {
	n, _ := s.held.todo.Count(s.held.inMemory())
	s.holding.Store(int64(n))
}

// IsHolding says whether lines in memory wait for a name: later ones must queue up behind them
// to keep their order.
func (s *Store) IsHolding() bool { return s.holding.Load() > 0 }

// TakeHeld hands over some lines that wait for a name: the oldest in memory or, if there are
// none and some destination has little else to send, the oldest on disk. They are there, and count
// as held, until FinishHeld. One goroutine calls the two in turn.
func (s *Store) TakeHeld() (lines records.Chunk, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	for {
		next := records.Chunk{Span: h.todo.First(h.inMemory())}
		if next.IsEmpty() {
			break
		}
		if s.load(&h.log, &next) == nil && h.todo.Holds(next.Span) {
			h.taken, h.queue = next, fresh
			return next, true
		}
		next.Free()
	}
	if !h.ahead.Begins(h.todo.First(h.onDisk())) {
		notify(s.work)
		return lines, false
	}
	h.taken, h.queue, h.ahead = h.ahead, late, records.Chunk{}
	return h.taken, true
}

// FinishHeld ends the waiting of what TakeHeld handed over. named calls put, in the same
// instant, for what became of the lines.
func (s *Store) FinishHeld(named func(put func(lines []byte, n int, born time.Time))) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	named(func(lines []byte, n int, born time.Time) { s.put(&s.named, lines, n, born, h.queue) })
	h.todo.Remove(h.taken.Span)
	h.taken.Free()
	s.hold()
	s.bound()
	if s.closed {
		s.tellAll() // this may have been the last
	}
	s.settle()
}

// Expire drops held lines that arrived before a time.
func (s *Store) Expire(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := (records.Span{To: s.held.since(before)}); s.held.todo.Touches(old) {
		s.held.lose(s, old, NoName)
		s.settle()
	}
}
