package inlet

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

const (
	idleEnough  = time.Second // without anything whole, for a connection to be ended for another
	lookForRoom = 10 * time.Millisecond
	calm        = time.Minute // without a trouble, until it is logged again

	// How many connections that we have ended may wait for their peers to end them, too, in addition
	// to the open ones: at least this many, where there are descriptors for them, or a quarter of the
	// limit of open ones.
	leastLeaving = 64

	shortage = 10 * time.Second // how long fewer may be open when descriptors have run out: the process needs some

	moreDescriptors = "LimitNOFILE= in the unit, or ulimit -n"
)

// errFull says that there is no room for another connection.
var errFull = errors.New("connections at their limit")

// connections are the open ones of all listeners. At the limit, the one that was idle longest
// makes room; if none is idle, new ones wait in the kernel's backlog. Any goroutine may use it.
type connections struct {
	log *slog.Logger

	mu      sync.Mutex
	limit   int       // of open
	linger  int       // limit of leaving, where no more can be open
	least   int       // limit while descriptors are short
	until   time.Time // they are, until then
	running map[*streamReader]struct{}
	open    int             // of them, not ended at our side
	leaving []*streamReader // ended at our side, and not at their peers' yet, the first one first
	kept    int             // bytes in their tails
	full    trouble         // the limit was reached
	short   trouble         // descriptors ran out
	stats   ConnectionStats
}

func newConnections(log *slog.Logger) *connections {
	return &connections{log: log, running: map[*streamReader]struct{}{}}
}

// A trouble is logged when it begins: when it has not been there for a while. It is when it was
// last there.
type trouble struct{ time.Time }

func (t *trouble) isThere(log *slog.Logger, text string, attrs ...any) {
	if time.Since(t.Time) > calm {
		log.Warn(text, attrs...)
	}
	t.Time = time.Now()
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
	c := in.connections
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stats.Limit = c.most()
	return c.stats
}

// set changes how many may be open: no more than there are descriptors for. Those that are
// open stay.
func (c *connections) set(s Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := sockets.Descriptors()
	most := max(all/4, all-64) // the rest of the process needs some
	c.limit = min(s.MaxConnections, most/5*4)
	c.linger = max(c.limit/4, min(leastLeaving, most-c.limit))
	if c.limit < s.MaxConnections {
		c.log.Warn("fewer descriptors than max_connections asks for", "max_connections", s.MaxConnections,
			"connections", c.limit, "descriptors", all, "remedy", moreDescriptors)
	}
}

// most is how many may be open now. c.mu is held.
func (c *connections) most() int {
	if time.Now().Before(c.until) {
		return min(c.least, c.limit)
	}
	return c.limit
}

// add registers a connection. c.mu is held.
func (c *connections) add(s *streamReader) {
	s.touch(time.Now())
	c.running[s] = struct{}{}
	c.open++
	s.hurry = c.open > c.limit
	c.hangUp()
}

// awaitRoom returns when there is room, or ctx ends.
func (c *connections) awaitRoom(ctx context.Context) {
	for first := true; ctx.Err() == nil && !c.makeRoom(first); first = false {
		retry.Sleep(ctx, lookForRoom)
	}
}

// makeRoom says whether there is room: the connection makes it that was idle longest, if that
// was long enough. first says that nobody has asked for it yet.
func (c *connections) makeRoom(first bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open < c.most() {
		return true
	}
	c.full.isThere(c.log, "connections at their limit: the one that was idle longest makes room for a new one", "limit", c.most())
	s, idle := c.idlest()
	if idle >= idleEnough && s.hasInput() { // it was we who were not there
		c.touchUnread()
		s, idle = c.idlest()
	}
	if idle >= idleEnough && !s.hasInput() {
		c.stats.MadeRoom++
		c.retire(s)
		return true
	}
	if first {
		c.stats.Waited++
	}
	return false
}

// idlest returns the reader that was idle longest, and for how long. c.mu is held.
func (c *connections) idlest() (s *streamReader, idle time.Duration) {
	now := time.Since(epoch)
	for r := range c.running {
		if d := now - time.Duration(r.lastTaken.Load()); !r.ended && (s == nil || d > idle) {
			s, idle = r, d
		}
	}
	return s, idle
}

// touchUnread notes that nobody is idle who has sent what is not read yet. c.mu is held.
func (c *connections) touchUnread() {
	now := time.Now()
	for r := range c.running {
		if !r.ended && r.hasInput() {
			r.touch(now)
		}
	}
}

// ranOut is called when accept has failed for lack of descriptors. Some connections make
// room, and for a while none takes their place.
func (c *connections) ranOut(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.short.isThere(c.log, "out of descriptors: new connections wait until old ones end", "err", err, "remedy", moreDescriptors)
	c.stats.ShortOf++
	if now := time.Now(); now.After(c.until) {
		c.least, c.until = max(1, c.open-min(8, c.open/2)), now.Add(shortage)
	}
	c.hangUp()
}

// retire ends our side of a connection. What its peer sends by TCP is read until it closes, too.
// c.mu is held.
func (c *connections) retire(s *streamReader) {
	s.ended = true
	c.open--
	s.finish()
	if !s.isUnix {
		c.leaving = append(c.leaving, s)
		c.hangUp()
	}
}

// hangUp makes readers that have been leaving for long read what is there, and then stop, if
// there are too many. c.mu is held.
func (c *connections) hangUp() {
	for len(c.leaving) > c.linger+max(0, c.limit-c.open) || len(c.leaving) > 0 && time.Now().Before(c.until) {
		c.leaving[0].shut(unix.SHUT_RD)
		c.leaving = c.leaving[1:]
	}
}

// timedOut ends a connection because it was idle for too long.
func (c *connections) timedOut(s *streamReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.ended {
		c.stats.IdleTimeout++
		c.retire(s)
	}
}

// leave removes a connection.
func (c *connections) leave(s *streamReader) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.running, s)
	if !s.ended {
		c.open--
	} else if i := slices.Index(c.leaving, s); i >= 0 {
		c.leaving = slices.Delete(c.leaving, i, i+1)
	}
}
