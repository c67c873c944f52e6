package store

import (
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// Held are the lines that wait for a name. One goroutine calls Take, Finish and Expire; any may call
// Any. The store's mu guards the rest.
type Held struct {
	reader
	store *Store
	any   atomic.Bool   // what Any returns
	todo  records.Spans // wait
	taken records.Chunk // of todo: in the hands of who names
	queue queue         // that it goes to
}

// Any says whether lines in memory wait for a name: later ones must queue up behind them to keep
// their order.
func (h *Held) Any() bool { return h.any.Load() }

// look updates what Any returns.
func (h *Held) look() {
	isAny := h.todo.Touches(h.log.in(inMemory))
	if h.any.Store(isAny); h.store.closed && !isAny {
		h.store.tellAll() // it may have been all that was waited for
	}
}

// add adds new lines.
func (h *Held) add(sp records.Span) {
	h.todo.Add(sp)
	h.look()
	notify(h.more)
}

// lose drops what lies in sp, for all destinations.
func (h *Held) lose(sp records.Span, why Reason) {
	n := h.todo.Remove(sp)
	for _, c := range h.store.cursors {
		c.books.Dropped[why] += uint64(n)
	}
}

// Take hands over some lines: the oldest in memory or, if there are none and some destination has
// little else to send, the oldest on disk. They are there, and count as held, until Finish, which is
// called next.
func (h *Held) Take() (lines records.Chunk, ok bool) {
	s := h.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		sp, q := h.todo.First(h.log.in(inMemory)), fresh
		if sp.IsEmpty() {
			sp, q = h.todo.First(h.log.in(onDisk)), late
			if !h.ahead.Begins(sp) {
				notify(s.work)
				return lines, false
			}
		}
		lines, err := s.load(&h.reader, sp)
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

// Finish ends the waiting of what Take handed over. named calls put, in the same instant, for what
// became of the lines; it isn't called if they had to make room meanwhile.
func (h *Held) Finish(named func(put func(lines []byte, n int, born time.Time))) {
	s := h.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.todo.Holds(h.taken.Span) {
		named(func(lines []byte, n int, born time.Time) { s.put(&s.named, lines, n, born, h.queue) })
		h.todo.Remove(h.taken.Span)
	}
	h.taken.Free()
	s.bound()
	s.settle()
}

// Expire drops lines that arrived before a time.
func (h *Held) Expire(before time.Time) {
	s := h.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := (records.Span{To: h.log.since(before)}); h.todo.Touches(old) {
		h.lose(old, NoName)
		s.settle()
	}
}
