package inlet

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// idleEnough is how long a connection must have brought nothing to make room.
	idleEnough = time.Second

	// leastLeaving is how many connections that we have ended at our side may wait
	// for their peers to end them, too, at the least.
	leastLeaving = 64

	// shortage is how long no more connections are taken than there were when the
	// descriptors ran out, less spare ones: the rest of the process needs some.
	shortage = 10 * time.Second
	spare    = 8

	// calm is how long nobody must have waited or made room for that to be news
	// again.
	calm = time.Minute
)

// connections are those that are open, over all listeners. Where there may be no
// more of them, the one that was idle longest makes room; where none is idle, new
// ones wait in the kernel's backlog. Any goroutine may use it.
type connections struct {
	log *slog.Logger

	mu      sync.Mutex
	limit   int                        // of open
	least   int                        // limit while descriptors are short
	until   time.Time                  // they are, until then
	open    int                        // entered, and not left or leaving
	readers map[*streamReader]struct{} // of these, those that are read
	leaving []*streamReader            // ended at our side, the first one first
	freed   chan struct{}              // closed when there may be room
	full    trouble                    // the limit was reached
	short   trouble                    // descriptors ran out
	stats   ConnectionStats
}

// A trouble is when something was last wrong; zero: long ago.
type trouble struct{ time.Time }

// isNews says whether it is news that something is wrong now.
func (t *trouble) isNews() bool {
	is := t.IsZero()
	t.Time = time.Now()
	return is
}

// isOver says, once, that it has been well for a while.
func (t *trouble) isOver() bool {
	is := !t.IsZero() && time.Since(t.Time) > calm
	if is {
		t.Time = time.Time{}
	}
	return is
}

// ConnectionStats count what became of connections for which there was no room.
type ConnectionStats struct {
	Limit       int    // how many may be open
	Waited      uint64 // times that one waited in the backlog for another to be idle or to end
	ShortOf     uint64 // times that one could not be accepted for want of descriptors
	MadeRoom    uint64 // ended by us, because another one came
	IdleTimeout uint64 // ended by us, because of Settings.IdleTimeout
}

// Connections returns what is to be known about connections.
func (in *Inlet) Connections() ConnectionStats {
	c := &in.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	stats := c.stats
	stats.Limit = c.most()
	return stats
}

// set changes how many may be open: no more than there are descriptors for. Those
// that are stay.
func (c *connections) set(s Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readers == nil {
		c.readers, c.freed = map[*streamReader]struct{}{}, make(chan struct{})
	}
	c.limit = s.MaxConnections
	if most, all := descriptorsFor(); most < c.limit {
		c.limit = most
		c.log.Warn("fewer descriptors than max_connections asks for", "max_connections", s.MaxConnections,
			"connections", most, "descriptors", all, "remedy", "LimitNOFILE= in the unit, or ulimit -n")
	}
	c.wake()
}

// descriptorsFor returns how many connections the process has descriptors for, of
// all that it has.
func descriptorsFor() (most, all int) {
	var limit syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit) != nil || limit.Cur > 1<<30 {
		return 1 << 30, 1 << 30
	}
	all = int(limit.Cur)
	return max(all/4, all-64), all
}

// most is how many may be open now. c.mu is held.
func (c *connections) most() int {
	if !c.until.IsZero() && time.Now().Before(c.until) {
		return min(c.least, c.limit)
	}
	return c.limit
}

// tryEnter takes one of the connections that may be open, and says whether there
// was one.
func (c *connections) tryEnter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open >= c.most() {
		return false
	}
	c.open++
	if c.full.isOver() {
		c.log.Info("room for new connections again", "waited", c.stats.Waited, "made_room", c.stats.MadeRoom)
	}
	if c.short.isOver() {
		c.log.Info("descriptors for new connections again")
	}
	return true
}

// enterAnyway takes one more than may be open, if need be.
func (c *connections) enterAnyway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
}

// enter is tryEnter, and waits until there is one: the connection that was idle
// longest makes room.
func (c *connections) enter(ctx context.Context) error {
	for first := true; ; first = false {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if c.tryEnter() {
			return nil
		}
		freed, wait := c.makeRoom(first)
		if wait > 0 {
			select {
			case <-freed:
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
	}
}

// makeRoom ends the connection that was idle longest, or returns how long to wait
// until one may have been idle long enough, and what tells before.
func (c *connections) makeRoom(first bool) (freed <-chan struct{}, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open < c.most() {
		return nil, 0
	}
	if c.full.isNews() {
		c.log.Warn("connections at their limit: the one that was idle longest makes room for a new one", "limit", c.most())
	}
	s, idle := c.idlest()
	for idle >= idleEnough && s.hasInput() { // it was we who were not there
		s.touch()
		s, idle = c.idlest()
	}
	if idle >= idleEnough {
		c.stats.MadeRoom++
		c.retire(s)
		return nil, 0
	}
	if first {
		c.stats.Waited++
	}
	return c.freed, idleEnough - idle
}

// idlest returns the reader that was idle longest, and for how long. c.mu is held.
func (c *connections) idlest() (s *streamReader, idle time.Duration) {
	now := time.Since(epoch)
	for r := range c.readers {
		if d := now - time.Duration(r.lastRead.Load()); s == nil || d > idle {
			s, idle = r, d
		}
	}
	return s, idle
}

// ranOut is told that accept has failed for want of descriptors. Some connections
// make room, and none comes in their place for a while.
func (c *connections) ranOut(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.short.isNews() {
		c.log.Warn("out of descriptors: new connections wait until old ones end", "err", err, "remedy", "LimitNOFILE= in the unit, or ulimit -n")
	}
	c.stats.ShortOf++
	if now := time.Now(); now.After(c.until) {
		c.least, c.until = max(1, c.open-spare), now.Add(shortage)
	}
	for len(c.leaving) > 0 {
		c.hangUp()
	}
}

// retire ends a connection at our side. What its peer has sent is read. From then on
// a unix socket refuses what it sends; by TCP it can't be told so at once, and what it
// still sends is read, until it closes. c.mu is held.
func (c *connections) retire(s *streamReader) {
	delete(c.readers, s)
	c.open--
	if s.isUnix {
		s.shut(unix.SHUT_RDWR)
	} else {
		s.shut(unix.SHUT_WR)
		c.leaving = append(c.leaving, s)
	}
	for len(c.leaving) > max(leastLeaving, c.limit/4) || len(c.leaving) > 0 && time.Now().Before(c.until) {
		c.hangUp()
	}
	c.wake()
}

// hangUp makes the reader that has been leaving longest read what is there, and no
// more. c.mu is held.
func (c *connections) hangUp() {
	c.leaving[0].shut(unix.SHUT_RD)
	c.leaving = c.leaving[1:]
}

// wake wakes those who wait for room. c.mu is held.
func (c *connections) wake() {
	close(c.freed)
	c.freed = make(chan struct{})
}

// add has a connection that has entered.
func (c *connections) add(s *streamReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.touch()
	s.hurry = c.open > c.limit
	c.readers[s] = struct{}{}
}

// timedOut ends a connection because it was idle for too long.
func (c *connections) timedOut(s *streamReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.readers[s]; ok {
		c.stats.IdleTimeout++
		c.retire(s)
	}
}

// leave ends the part of a connection that has entered; nil: of one that none came
// for.
func (c *connections) leave(s *streamReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.readers[s]; ok || s == nil {
		delete(c.readers, s)
		c.open--
		c.wake()
		return
	}
	if i := slices.Index(c.leaving, s); i >= 0 {
		c.leaving = slices.Delete(c.leaving, i, i+1)
	}
}
