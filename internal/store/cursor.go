package store

import (
	"maps"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/records"
)

// When a line counts as delivered, and when it is sent again.
const (
	// maturity is how long a session must live on after the peer's kernel has
	// acknowledged a line: a balancer without a backend accepts and closes.
	maturity = time.Second

	// young is how long a session must last before we believe that it delivered anything:
	// HAProxy makes four attempts of 5 s, and closes.
	young = 21 * time.Second

	// maxIdle is how many times a line is sent again because it went to a young session that was
	// then idle, and whose peer closed in order. The last time waits for a session that is not
	// young: a balancer without a backend closes like that, too, any number of times.
	maxIdle = 3

	// longestLook is how long to wait for the acknowledgement of a burst before looking again: a
	// peer may delay it by 40 ms.
	longestLook = 50 * time.Millisecond
)

// How waiting lines are sent.
const (
	// liveAge is how long a line may wait before it gives way to younger ones, while there is a
	// backlog.
	liveAge = time.Second / 2

	// A backlog is sent in bursts of this size, with pauses a third as long between them, so that
	// a server that has just come back has time for new lines.
	burstBytes = 1 << 20
	burstRest  = 3

	// thirst is how little a destination must have to send before held lines on disk are named.
	thirst = 2 * burstBytes
)

// A Cursor is the place of one destination in the log, and its books. It is the
// outlet.Source of that destination.
type Cursor struct {
	Destination
	needs
	session
	reader
	store *Store
	books Books
	most  int64 // bytes of todo: as bounds.most

	hand records.Chunk // what Next has returned, as far as it was not written; the caller's
}

// A reader is who takes lines from a log.
type reader struct {
	log   *log
	more  chan struct{} // cap 1: it may have something to take, or to say
	ahead records.Chunk // of what is on disk: read before it is taken
}

func newReader(l *log) reader { return reader{log: l, more: make(chan struct{}, 1)} }

// More receives when there may be more to take. It implements outlet.Source.
func (r *reader) More() <-chan struct{} { return r.more }

// A session is what is known about one.
type session struct {
	outlet.Session
	linked  bool
	began   time.Time
	next    part // what is in hand, while nothing of it is written
	written uint64
	acked   uint64
	window  int64 // the most that the peer's kernel has offered; 0: not known
	acks    []ack // that are not mature, the oldest first
	burst   burst
}

// An ack says that so many bytes were acknowledged at some time.
type ack struct {
	when  time.Time
	bytes uint64
}

// A burst is a part of the backlog while it is being sent.
type burst struct {
	began time.Time
	bytes int       // sent
	end   uint64    // in the session
	rest  time.Time // no other one before then
}

// lose drops the lines in sp, which can no longer be read.
func (c *Cursor) lose(sp records.Span, why Reason) {
	c.books.Dropped[why] += uint64(c.needs.lose(sp, why))
	notify(c.more) // it may have been the last
}

// bound drops the oldest lines beyond what the destination may lag behind.
func (c *Cursor) bound() {
	s := c.store
	c.most = s.allowed(c.most, c.Queue+c.Spool+s.segmentSize, c.todo.Bytes())
	for c.todo.Bytes() > c.most {
		why := SpoolFull
		if c.Spool == 0 {
			why = QueueFull
		}
		c.lose(s.named.at(c.todo[0].From).span(), why)
		s.settle()
	}
}

// snapshot returns the books.
func (c *Cursor) snapshot() Books {
	s := c.store
	b := c.books
	b.Forwarded = maps.Clone(b.Forwarded)
	b.Destination, b.QueueLimit, b.SpoolLimit = c.Name, c.Queue, c.Spool
	count := func(all records.Spans, l *log) {
		lines, bytes := all.Count(l.in(inMemory))
		b.Queued += lines
		b.QueueBytes += bytes
		if lines, bytes = all.Count(l.in(onDisk)); lines == 0 {
			return
		}
		b.Spooled += lines
		b.SpoolBytes += bytes
		if g := l.at(all[0].From); g != nil && (b.Oldest.IsZero() || g.Born.Before(b.Oldest)) {
			b.Oldest = g.Born
		}
	}
	count(c.todo, &s.named)
	b.Queued += c.lost.Lines() // only the kernels have them
	if !b.Removed {
		count(s.Held.todo, &s.held)
	}
	return b
}

// HasBacklog implements outlet.Source.
func (c *Cursor) HasBacklog(time.Time) bool {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.isLagging()
}

// isLagging says whether lines wait that younger ones overtake: some are on disk, or have been
// overtaken before. While there are none, lines keep their order.
func (c *Cursor) isLagging() bool {
	old, _ := c.first(c.store.named.in(onDisk))
	return len(c.queues[late]) > 0 || !old.IsEmpty()
}
