package store

import (
	"bytes"
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// A Destination gets every line.
type Destination struct {
	Name string

	// To are its addresses: a destination that is renamed and keeps one of them is the same.
	To []string

	// Queue and Spool bound, in bytes, how far it may lag behind in memory and on
	// disk.
	Queue, Spool int64

	// Replay is how many bytes of what was delivered on the last session it is sent again on the
	// next.
	Replay int64
}

// A Reason says why lines were dropped.
type Reason uint8

// The reasons.
const (
	QueueFull Reason = iota // memory was at its bound, or could not be read again
	SpoolFull               // the disk was at its bound, or could not be read again
	NoName                  // all names were taken
	Shutdown                // nothing would have kept them, or their destination is gone
	NumReasons
)

// Books are the account of one destination's lines, of one instant:
//
//	put + Adopted = Σ Forwarded + Σ Dropped + Queued + Spooled
//
// where put counts what was put since the destination was added.
type Books struct {
	Destination string
	Removed     bool // it is a destination no more
	Adopted     uint64
	Resent      uint64
	Forwarded   map[string]uint64 // by upstream; 0: it has had none yet
	Dropped     [NumReasons]uint64
	Queued      int // in memory, and not delivered
	Spooled     int // on disk, and not delivered

	QueueBytes, SpoolBytes int64     // of these lines
	QueueLimit, SpoolLimit int64     // of these bytes
	Oldest                 time.Time // arrival of the oldest of those on disk, or a little earlier
}

// A Store keeps lines until every destination has them. Any goroutine may call its exported
// methods, and those of its cursors. Where nothing else is said, mu guards a field, and whoever
// calls another method holds mu.
type Store struct {
	// MoreHeld receives when TakeHeld may have something.
	MoreHeld chan struct{}

	holding atomic.Bool   // what IsHolding returns
	work    chan struct{} // cap 1: there is something to do for Run

	mu sync.Mutex
	tiers
	saving
	named   log
	held    heldLines
	recent  recent
	cursors []*Cursor
	removed []*Cursor
	closed  bool // nothing more is put, but what gets a name
}

// resize sets the bounds to what the destinations ask for.
func (s *Store) resize() {
	var queue, least, replay, spool int64
	for _, c := range s.cursors {
		queue, least = max(queue, c.Queue), min(cmp.Or(least, c.Queue), c.Queue)
		replay, spool = max(replay, c.Replay), max(spool, c.Spool)
	}
	s.grain = s.segmentSize
	s.segmentSize = min(max(least/64, records.ChunkSize), 16<<20)
	slack := 3 * s.segmentSize // parts that are needed no more, of the first and of the last
	s.limit[inMemory], s.limit[onDisk] = queue+replay+slack, spool
	s.relaxed = queue/2 + replay + slack
	s.pressure = s.relaxed
	if s.disk == nil {
		s.limit[onDisk] = 0
	}
	notify(s.work)
}

// Put copies n whole lines that arrived at born, each ending in '\n' and none longer than
// records.MaxRecord; those without a name wait for one. It never waits for the disk; to make room,
// the oldest lines go. It returns how many bytes wait for somebody else's turn: to be sent where
// they can be, or to go to disk.
func (s *Store) Put(lines []byte, n int, born time.Time, unnamed bool) (waiting int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &s.named
	if unnamed {
		l = &s.held.log
	}
	s.put(l, lines, n, born, fresh)
	return s.bound()
}

// put appends to a log; what has its name waits in q.
func (s *Store) put(l *log, lines []byte, n int, born time.Time, q queue) {
	if q == fresh {
		l.mark(born)
	}
	for len(lines) > 0 {
		part, count := lines, n
		if len(part) > records.MaxRecord {
			part = part[:bytes.LastIndexByte(part[:records.MaxRecord], '\n')+1]
			count = bytes.Count(part, []byte{'\n'})
		}
		sp, err := l.append(&s.tiers, part, count, born)
		if err != nil {
			if !s.saidNoRoom {
				s.saidNoRoom = true
				s.out.Error("lines dropped: no memory for them", "lines", n, "err", err)
			}
			for _, c := range s.cursors {
				c.books.Dropped[QueueFull] += uint64(n)
			}
			return
		}
		if s.memory != nil && l.last().dir == nil {
			defer s.save() // the next process is to know what was lost
		}
		if l.kind == records.Held {
			s.held.todo.Add(sp)
			s.hold()
			notify(s.MoreHeld)
		} else {
			s.recent.put(sp, part, born)
			for _, c := range s.cursors {
				c.add(sp, q)
				notify(c.more)
			}
		}
		lines, n = lines[len(part):], n-count
	}
}

// bound keeps everything within its bounds, and returns what Put does.
func (s *Store) bound() (waiting int64) {
	isPressed := s.isPressed()
	for _, c := range s.cursors {
		if c.bound(); c.linked || isPressed {
			waiting = max(waiting, c.queues[fresh].Bytes())
		}
	}
	s.most = s.allowed(s.most, s.limit[inMemory], s.used[inMemory])
	for s.used[inMemory] > s.most && s.evict(inMemory) {
	}
	if isPressed {
		notify(s.work)
		waiting = max(waiting, s.held.todo.Bytes())
	}
	return waiting
}

// isPressed says whether lines must go to disk.
func (s *Store) isPressed() bool {
	return s.limit[onDisk] > 0 && s.used[inMemory] > s.pressure
}

// evict frees a segment of a tier: one that is kept only in case it must be sent again, or else the
// oldest. It returns whether there was one.
func (s *Store) evict(t tier) bool { return s.drop(s.delivered(t)) || s.drop(s.eldest(t)) }

// drop frees a segment, if it is one. Its lines are dropped for all that have not got them.
func (s *Store) drop(g *segment) bool {
	if g == nil {
		return false
	}
	g.sealed = true
	s.lose(s.logOf(g), g.span(), g.tier.full())
	s.settle()
	return true
}

// delivered returns the oldest segment of a tier that has nothing but what all destinations have, or
// nil.
func (s *Store) delivered(t tier) *segment {
	for _, g := range s.named.tier(t) {
		if !g.moving && !slices.ContainsFunc(s.cursors, func(c *Cursor) bool { return c.todo.Touches(g.span()) }) {
			return g
		}
	}
	return nil
}

// free ends the use of a segment that is no longer in its log.
func (s *Store) free(g *segment) {
	s.used[g.tier] -= g.size()
	if g.tier == inMemory {
		s.release(g.entry)
		return
	}
	s.unused = append(s.unused, g.entry)
	notify(s.dirty)
}

// lose drops what of a log lies in sp, for all that have not got it.
func (s *Store) lose(l *log, sp records.Span, why Reason) {
	if l == &s.held.log {
		n := s.held.todo.Remove(sp)
		for _, c := range s.cursors {
			c.books.Dropped[why] += uint64(n)
		}
		return
	}
	for _, c := range s.cursors {
		c.lose(sp, why)
	}
}

// sweep frees the segments that nobody needs any more.
func (s *Store) sweep() {
	for _, l := range s.logs() {
		l.segments = slices.DeleteFunc(l.segments, func(g *segment) bool {
			if s.isNeeded(g) {
				return false
			}
			s.free(g)
			return true
		})
	}
}

// isNeeded says whether a segment takes more lines, or has some that somebody needs, or is moving.
func (s *Store) isNeeded(g *segment) bool {
	switch {
	case !g.sealed, g.moving:
		return true
	case g.Kind == records.Held:
		return s.held.todo.Touches(g.span())
	default:
		return slices.ContainsFunc(s.cursors, func(c *Cursor) bool { return c.keeps(g.span()) })
	}
}

// settle makes what is needed survive the process, and then frees the rest: the next one would
// miss what the state names.
func (s *Store) settle() {
	s.save()
	s.sweep()
	s.hold()
}

func (s *Store) logs() [2]*log { return [2]*log{&s.named, &s.held.log} }

func (s *Store) logOf(g *segment) *log { return s.logs()[g.Kind-records.Named] }

func (s *Store) segments() []*segment { return slices.Concat(s.named.segments, s.held.segments) }

// eldest returns the segment of a tier with the oldest lines, but for one that is moving, or nil.
func (s *Store) eldest(t tier) (eldest *segment) {
	for _, l := range s.logs() {
		all := l.tier(t)
		if len(all) > 0 && all[0].moving {
			all = all[1:]
		}
		if len(all) > 0 && (eldest == nil || all[0].Born.Before(eldest.Born)) {
			eldest = all[0]
		}
	}
	return eldest
}

// CloseInput says that nothing more will be put, except held lines that get their name. What is
// in memory is still sent; what is on disk waits for the next process.
func (s *Store) CloseInput() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.tellAll()
}

// tellAll makes all sources look again.
func (s *Store) tellAll() {
	for _, c := range s.cursors {
		notify(c.more)
	}
}

// Books returns the books of all destinations; those that are gone come last.
func (s *Store) Books() []Books {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]Books, 0, len(s.cursors)+len(s.removed))
	for _, c := range slices.Concat(s.cursors, s.removed) {
		all = append(all, c.snapshot())
	}
	return all
}

// Memory returns the directory of the first tier, where other files may lie beside its own; ""
// if there is none. Close removes it if nothing is left in it.
func (s *Store) Memory() string {
	if s.memory == nil {
		return ""
	}
	return s.memory.Path()
}

// notify puts a token into c unless one is there.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
