package store

import (
	"bytes"
	"time"
)

// heldLines are the lines that wait for a name. The store's mutex guards them.
type heldLines struct {
	log
	todo  spans // wait
	taken chunk // in the hands of who names
	late  bool  // what is taken came from disk
	ahead chunk // of todo: read from disk
	asked bool  // somebody would name what is on disk
}

// heldApart is how far apart lines may have come that are named at once.
const heldApart = 100 * time.Millisecond

// A Held is some lines that wait for a name.
type Held struct {
	Data  []byte // whole lines, until FinishHeld
	Lines int
	Born  time.Time
}

// needs notes what must be kept.
func (h *heldLines) needs(note func(span)) {
	for _, sp := range h.todo {
		note(sp)
	}
	note(h.taken.span)
}

// all are the lines that wait, wherever they are.
func (h *heldLines) all() spans {
	all := append(spans(nil), h.todo...)
	all.add(h.taken.span)
	return all
}

func (h *heldLines) left() int { return h.todo.lines() + h.taken.lines() }

// lose drops what of the lines lies in sp.
func (h *heldLines) lose(s *Store, sp span, why Reason) {
	n, _ := h.todo.remove(sp)
	for _, c := range s.cursors {
		c.books.Dropped[why] += uint64(n)
	}
	s.hold()
}

// hold counts again what IsHolding tells. s.mu is held.
func (s *Store) hold() {
	h := &s.held
	onDisk, _ := h.todo.before(h.border())
	n := h.todo.lines() - onDisk
	if !h.late {
		n += h.taken.lines()
	}
	s.holding.Store(int64(n))
}

// IsHolding says whether lines in memory wait for a name: later ones must queue up
// behind them, so that they keep their order.
func (s *Store) IsHolding() bool { return s.holding.Load() > 0 }

// TakeHeld hands over some lines that wait for a name: the oldest in memory; or, when
// there are none, and some destination has little else to be sent, of those on disk.
// They count as held until FinishHeld. One goroutine calls the two, in turns.
func (s *Store) TakeHeld() (Held, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	for {
		border := h.border()
		var next span
		for _, sp := range h.todo {
			if next = sp.within(span{border, h.tail}); !next.isEmpty() {
				break
			}
		}
		if next.isEmpty() {
			return s.takeLate()
		}
		c := chunk{span: next, buf: h.taken.buf}
		h.taken.buf = nil
		if ok, _ := s.load(&h.log, &c); !ok || !h.todo.holds(c.span) {
			h.taken.buf = c.buf
			continue
		}
		h.todo.remove(c.span)
		h.taken, h.late = c, false
		return Held{c.data, c.lines(), c.born}, true
	}
}

// takeLate is TakeHeld for what is on disk. s.mu is held.
func (s *Store) takeLate() (Held, bool) {
	h := &s.held
	if !h.ahead.begins(h.todo.first()) {
		h.asked = len(h.todo) > 0
		notify(s.work)
		return Held{}, false
	}
	putBuffer(h.taken.buf)
	h.taken, h.late = h.ahead, true
	h.ahead, h.asked = chunk{}, false
	h.todo.remove(h.taken.span)
	return Held{h.taken.data, h.taken.lines(), h.taken.born}, true
}

// FinishHeld ends the waiting of what TakeHeld handed over. put is called to put what
// became of the lines, in the same instant.
func (s *Store) FinishHeld(named func(put func(lines []byte, n int, born time.Time))) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	h.taken.span = span{}
	named(func(lines []byte, n int, born time.Time) { s.put(&s.named, lines, n, born, h.late) })
	h.late = false
	s.hold()
	s.bound()
	if s.closed {
		s.tellAll() // this may have been the last
	}
	s.sweep()
	s.save()
}

// Expire drops held lines that came before a time.
func (s *Store) Expire(before time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := &s.held
	old := span{to: h.since(before)}
	if !h.todo.touches(old) {
		return
	}
	h.lose(s, old, NoName)
	s.sweep()
	s.save()
}

// lastEnd returns the length of the whole lines at the head of b; all of b where it
// has none.
func lastEnd(b []byte) int {
	if n := bytes.LastIndexByte(b, '\n') + 1; n > 0 {
		return n
	}
	return len(b)
}

func countLines(b []byte) int { return bytes.Count(b, []byte{'\n'}) }
