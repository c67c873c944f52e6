package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"syscall"
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
	// Held are the lines that wait for a name.
	Held Held

	work    chan struct{} // cap 1: there is something to do for Run
	spooler spooler       // what Run does

	mu sync.Mutex
	tiers
	saving
	recent  recent
	cursors []*Cursor
	removed []*Cursor
	closed  bool // nothing more is put, but what gets a name
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
		l = &s.held
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
		sp, err := s.append(l, part, count, born)
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
			s.Held.add(sp)
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
		waiting = max(waiting, s.Held.todo.Bytes())
	}
	return waiting
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

// load returns the beginning of sp: what was read ahead or put last, or what it reads now, in either
// tier; nothing, if it was moved or lost meanwhile, or is damaged: then it is lost. An error may go
// away. mu is held, but not while it reads.
func (s *Store) load(r *reader, sp records.Span) (c records.Chunk, err error) {
	if r.ahead.Begins(sp) {
		c, r.ahead = r.ahead, c
		notify(s.work)
		return c, nil
	}
	l := r.log
	c.Span = sp
	if l == &s.named && s.recent.take(&c, len(s.cursors) > 1) {
		return c, nil
	}
	g := l.at(sp.From)
	c.Span = sp.Within(g.span())
	e := g.entry
	s.mu.Unlock()
	err = e.read(func(f *os.File) error { return g.Read(f, &c) })
	s.mu.Lock()
	switch {
	case l.at(sp.From) != g || g.entry != e:
		err = nil
	case err == nil:
		return c, nil
	case !isDamage(err), errors.Is(err, syscall.EIO) && g.failures < maxFailures:
		g.failures++
		err = fmt.Errorf("read what waits: %w", err)
	default:
		g.sealed = true // behind what is damaged nothing would be found
		lost := records.Between(sp.From, g.end)
		s.out.Error("lines that wait cannot be read again", "lines", lost.Lines(), "file", g.path(), "err", err)
		s.lose(l, lost, g.tier.full())
		s.settle()
		err = nil
	}
	c.Free()
	return c, err
}

// lose drops what of a log lies in sp, for all that have not got it.
func (s *Store) lose(l *log, sp records.Span, why Reason) {
	if l == &s.held {
		s.Held.lose(sp, why)
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

// isNeeded says whether a segment may take more lines, or has some that somebody needs, or is moving.
func (s *Store) isNeeded(g *segment) bool {
	switch {
	case !g.sealed && !s.closed, g.moving:
		return true
	case g.Kind == records.Held:
		return s.Held.todo.Touches(g.span())
	default:
		return slices.ContainsFunc(s.cursors, func(c *Cursor) bool { return c.keeps(g.span()) })
	}
}

// settle makes what is needed survive the process, and then frees the rest: the next one would
// miss what the state names.
func (s *Store) settle() {
	s.save()
	s.sweep()
	s.Held.look()
}

// Run moves lines to disk, and reads them from there, until ctx ends.
func (s *Store) Run(ctx context.Context) error { return s.spooler.run(ctx) }

// CloseInput says that nothing more will be put, except held lines that get their name. What is
// in memory is still sent; what is on disk waits for the next process.
func (s *Store) CloseInput() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.tellAll()
}

// Close ends the use of the store, once Run and all sessions have ended. What is left goes to
// disk, up to its bound, or stays in memory for the next start; what would be lost with the
// process is dropped and counted. An error says that the disk did not take what it had to.
func (s *Store) Close() error {
	s.CloseInput()
	s.mu.Lock()
	s.sweep()
	s.mu.Unlock()
	err := s.spooler.moveDown(true)
	s.mu.Lock()
	isEmpty := true // the directory in memory
	for _, g := range s.segments() {
		if _, err := os.Lstat(g.path()); g.dir == nil || err != nil {
			s.lose(s.logOf(g), g.span(), Shutdown)
		} else if g.dir != s.disk {
			isEmpty = false
		}
	}
	s.settle()
	s.mu.Unlock()
	if s.disk != nil {
		err = errors.Join(err, s.spooler.sync())
	}
	if s.memory != nil && isEmpty && err == nil { // else its state is the newest
		err = errors.Join(err, s.memory.Remove())
	}
	s.abandon()
	return err
}

// abandon closes all files and directories, as the end of the process would.
func (s *Store) abandon() {
	for _, g := range s.segments() {
		g.file.Close()
	}
	for _, e := range s.spare {
		e.file.Close()
	}
	for _, f := range s.states {
		f.files[0].Close()
		f.files[1].Close()
	}
	if s.memory != nil {
		s.memory.Close()
	}
	if s.disk != nil {
		s.disk.Close()
	}
}

// tellAll makes all that take lines look again.
func (s *Store) tellAll() {
	notify(s.Held.more)
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
