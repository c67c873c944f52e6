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
	// idleEnough is how long a connection must have been silent to be ended for another.
	idleEnough = time.Second

	// leastLeaving is how many connections that we have ended may always wait for their peers
	// to end them, too.
	leastLeaving = 64

	// shortage is for how long we take fewer connections than there were when the descriptors ran
	// out: the rest of the process needs some.
	shortage = 10 * time.Second
	spare    = 8

	// calm is how long no connection must have waited or made room before that is logged again.
	calm = time.Minute
)

// connections are the open ones of all listeners. At the limit, the one that was idle longest
// makes room; if none is idle, new ones wait in the kernel's backlog. Any goroutine may use
// it.
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

// A trouble is when something was last wrong; zero: not lately.
type trouble struct{ time.Time }

// isNews says whether a problem is worth a line in the log now.
func (t *trouble) isNews() bool {
	is := t.IsZero()
	t.Time = time.Now()
	return is
}

// isOver says, once, that all has been well for a while.
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

// Connections returns the counts of connections.
func (in *Inlet) Connections() ConnectionStats {
	c := &in.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	stats := c.stats
	stats.Limit = c.most()
	return stats
}

// set changes how many may be open: no more than there are descriptors for. Those that are
// open stay.
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

// descriptorsFor returns how many connections the process has descriptors for, and how many
// descriptors it has in all.
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

// tryEnter takes one of the places for connections, if there is one.
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

// enterAnyway takes a place, beyond the limit if need be.
func (c *connections) enterAnyway() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
}

// enter is tryEnter, but waits for a place: the connection that was idle longest makes room.
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

// makeRoom ends the connection that was idle longest. If none has been idle long enough, it
// returns how long to wait for one, and what tells of a free place before that.
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

// ranOut is called when accept has failed for lack of descriptors. Some connections make
// room, and for a while none takes their place.
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

// retire ends our side of a connection. What its peer has sent is read. From then on, a unix
// socket refuses what it sends; over TCP it can't be told at once, so what it still sends is
// read until it closes. c.mu is held.
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

// hangUp makes the reader that has been leaving longest read what is there, and then stop.
// c.mu is held.
func (c *connections) hangUp() {
	c.leaving[0].shut(unix.SHUT_RD)
	c.leaving = c.leaving[1:]
}

// wake wakes those who wait for room. c.mu is held.
func (c *connections) wake() {
	close(c.freed)
	c.freed = make(chan struct{})
}

// add registers a connection that has entered.
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

// leave removes a connection that has entered; nil: a place for which no connection came.
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
