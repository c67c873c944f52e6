// Package pulse tells a loop that waits from one that is stuck, for the price of an atomic
// store a turn. It promises nothing of a loop that waits for what never comes.
package pulse

import (
	"sync/atomic"
	"time"
)

// A Pulse is that of one loop, which alone calls Work and Rest. The zero Pulse rests.
type Pulse struct {
	turns atomic.Uint64 // odd: at work
}

// Work says that the loop is at work, and has come further than when it said so last.
func (p *Pulse) Work() { p.turns.Store((p.turns.Load() | 1) + 2) }

// Rest says that the loop waits for something that may take as long as it likes.
func (p *Pulse) Rest() { p.turns.Store((p.turns.Load() | 1) + 1) }

// Turns counts them: it is odd while the loop is at work.
func (p *Pulse) Turns() uint64 { return p.turns.Load() }

// A Loop counts its turns as a Pulse does.
type Loop interface{ Turns() uint64 }

// A Watch looks at loops, again and again. One goroutine uses it.
type Watch struct {
	Limit time.Duration // longer at one piece of work is stuck

	last time.Time
	seen map[Loop]sight
}

// A sight is what was seen of a loop.
type sight struct {
	turns uint64
	since time.Time
}

// Stuck returns the first of loops that has been at one piece of work for longer than
// Limit, or nil. All are forgiven when nobody has looked for half as long: then we have
// stood still ourselves.
func (w *Watch) Stuck(now time.Time, loops []Loop) (stuck Loop) {
	before := w.seen
	if now.Sub(w.last) > w.Limit/2 {
		before = nil
	}
	w.last, w.seen = now, make(map[Loop]sight, len(loops))
	for _, l := range loops {
		s := sight{l.Turns(), now}
		if old, ok := before[l]; ok && old.turns == s.turns {
			s.since = old.since
		}
		w.seen[l] = s
		if stuck == nil && s.turns%2 == 1 && now.Sub(s.since) > w.Limit {
			stuck = l
		}
	}
	return stuck
}
