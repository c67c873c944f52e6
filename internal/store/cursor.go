package store

import (
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/records"
)

// When lines are delivered, and sent again.
const (
	// maturity is how long a session must live on after the peer's kernel has
	// acknowledged a line: a balancer without a backend accepts and closes.
	maturity = time.Second

	// young is how long a session must last for what it took to be believed.
	young = 20 * time.Second

	// maxIdle is how many times a line is sent again because a young session that had
	// taken it was idle, and its peer closed in order.
	maxIdle = 3

	// longestLook is how long a burst waits to be acknowledged before it is looked
	// again: a peer may put that off by 40 ms.
	longestLook = 50 * time.Millisecond
)

// How what waits is sent.
const (
	// liveAge is how long a line may wait before it gives way to younger ones,
	// where there is a backlog.
	liveAge = time.Second

	// A backlog is sent in bursts of so many bytes, with pauses that are a third
	// as long between them, so that a server that has just come back has time
	// for what is new.
	burstBytes = 1 << 20
	burstRest  = 3

	// thirst is how little must wait for somebody before held lines on disk are named.
	thirst = 2 * burstBytes
)

// A Cursor is the place of one destination in the log, and its books. It is the
// outlet.Source of that destination. What it needs is in one of these, and goes from
// each to those on its right:
//
//	backlog ──→ sent ──→ delivered ──→ nothing
//	fresh ──────↗ │        │
//	  ↑ put again ←────────┘ End
//
// The store's mutex guards it, but for the lines in hand.
type Cursor struct {
	Destination
	store *Store
	books Books
	more  chan struct{} // cap 1: Next may have something to say

	fresh   records.Spans // waits, and may live
	backlog records.Spans // was overtaken
	ahead   records.Chunk // of what is on disk: read before it is sent
	again   []piece       // to be sent again, in this order
	sent    []piece       // on this session, in this order
	proven  int           // how many of these, at the head, are delivered

	left   int   // lines that are not delivered
	bytes  int64 // of these
	excess int64 // bytes that were not delivered when the bounds were lowered
	session

	hand []byte        // lines that Next has returned, as far as they were not written; the caller's
	cur  records.Chunk // that holds them; the caller's
}

// A session is what is known of one.
type session struct {
	outlet.Session
	linked  bool
	began   time.Time
	handed  uint64 // bytes that Next has returned
	written uint64
	acked   uint64
	window  int64 // the most that the peer's kernel has offered; 0: not known
	acks    []ack // that are not mature, the oldest first
	burst   burst
}

// An ack says that so many bytes were acknowledged at a time. It is made of those that
// came together: the first at first, for from bytes.
type ack struct {
	first, when time.Time
	from, bytes uint64
}

// A piece is a part of the log that was sent, or is to be sent again.
type piece struct {
	records.Span
	size      int    // bytes of lines
	end       uint64 // where it ends in the session
	sends     uint8  // on how many sessions it was sent
	idle      uint8  // of them, how many its peer closed in order when it was idle
	delivered bool
	lost      bool   // it cannot be sent again, for why
	why       Reason // it could not be kept
}

// kept returns how many bytes of a piece that is not delivered count against the bounds.
func (p *piece) kept() int64 {
	if p.lost {
		return 0
	}
	return p.Bytes()
}

// A burst is a part of the backlog that is being sent.
type burst struct {
	began time.Time
	bytes int       // sent
	end   uint64    // in the session
	looks int       // since the last was acknowledged
	rest  time.Time // no other one before then
}

func (s *Store) newCursor(d Destination) *Cursor {
	return &Cursor{Destination: d, store: s, books: Books{Destination: d.Name}, more: make(chan struct{}, 1)}
}

// put takes note of new lines.
func (c *Cursor) put(sp records.Span, late bool) {
	if late && c.linked {
		c.backlog.Add(sp)
	} else {
		c.fresh.Add(sp)
	}
	c.left += sp.Lines()
	c.bytes += sp.Bytes()
	notify(c.more)
}

// parts visits all that the destination needs: what was sent, and what waits.
func (c *Cursor) parts(yield func(piece) bool) {
	for i := range c.sent {
		if !yield(c.sent[i]) {
			return
		}
	}
	for i := range c.again {
		if !yield(c.again[i]) {
			return
		}
	}
	for _, list := range []records.Spans{c.fresh, c.backlog} {
		for _, sp := range list {
			if !yield(piece{Span: sp}) {
				return
			}
		}
	}
}

// undelivered is all that is not delivered, wherever it is, until the next call.
func (c *Cursor) undelivered() records.Spans {
	all := c.store.scratch[:0]
	for p := range c.parts {
		if !p.delivered {
			all.Add(p.Span)
		}
	}
	c.store.scratch = all
	return all
}

// owes says whether anything of sp is not delivered, and still to be sent or to be
// sent again.
func (c *Cursor) owes(sp records.Span) bool {
	for p := range c.parts {
		if !p.delivered && !p.lost && !p.Within(sp).IsEmpty() {
			return true
		}
	}
	return false
}

// settle books that lines need no more delivery.
func (c *Cursor) settle(lines int, bytes int64) {
	c.left -= lines
	c.bytes -= bytes
}

func (c *Cursor) drop(lines int, bytes int64, why Reason) {
	c.books.Dropped[why] += uint64(lines)
	c.settle(lines, bytes)
}

// lose drops what of the lines lies in sp, and cannot be read any more. Of those that
// were sent, it is not known yet whether they were delivered.
func (c *Cursor) lose(sp records.Span, why Reason) {
	for i := range c.sent {
		if p := &c.sent[i]; !p.lost && !p.Within(sp).IsEmpty() {
			if !p.delivered {
				c.bytes -= p.Bytes()
			}
			p.lost, p.why = true, why
		}
	}
	for _, list := range []*records.Spans{&c.fresh, &c.backlog} {
		n, bytes := list.Remove(sp)
		c.drop(n, bytes, why)
	}
	again := make([]piece, 0, len(c.again))
	for _, p := range c.again {
		again = append(again, c.loseOf(p, sp, why)...)
	}
	c.again = again
	notify(c.more) // it may have been the last
}

// loseOf is lose for a piece that waits; it returns what is left of it.
func (c *Cursor) loseOf(p piece, sp records.Span, why Reason) (left []piece) {
	lost := p.Within(sp)
	if lost.IsEmpty() {
		return []piece{p}
	}
	if !p.delivered {
		c.drop(lost.Lines(), lost.Bytes(), why)
	}
	before, behind := p.Minus(sp)
	for _, part := range []records.Span{before, behind} {
		if !part.IsEmpty() {
			p.Span, p.size = part, int(part.Bytes())
			left = append(left, p)
		}
	}
	return left
}

// forget lets go of the oldest pieces that are delivered, of so many bytes. It returns
// false where there are none.
func (c *Cursor) forget(bytes int64) (changed bool) {
	mayGo := func(p *piece) bool {
		if bytes <= 0 || !p.delivered || p.lost {
			return false
		}
		bytes -= p.Bytes()
		changed = true
		return true
	}
	c.again = slices.DeleteFunc(c.again, func(p piece) bool { return mayGo(&p) })
	for i := range c.sent[:c.proven] {
		if p := &c.sent[i]; mayGo(p) {
			p.lost = true
		}
	}
	return changed
}

// bound drops the oldest lines that are more than the destination may lag behind.
func (c *Cursor) bound() {
	s := c.store
	c.excess = min(c.excess, c.bytes+s.grain)
	for c.bytes > max(c.Queue+c.Spool+s.segmentSize, c.excess) {
		g := s.named.at(c.eldest())
		if g == nil {
			return
		}
		why := SpoolFull
		if c.Spool == 0 {
			why = QueueFull
		}
		c.lose(g.span(), why)
		s.sweep()
		s.save()
	}
}

// eldest returns where the oldest line is that is kept and not delivered.
func (c *Cursor) eldest() records.Place {
	at := records.End
	for p := range c.parts {
		if !p.delivered && !p.lost && p.From.At < at.At {
			at = p.From
		}
	}
	return at
}

// retire ends the use of a cursor; its lines are dropped. s.mu is held.
func (s *Store) retire(c *Cursor) {
	left := c.left + s.held.left()
	s.out.Info("destination removed", "destination", c.Name, "lines_dropped", left)
	c.books.Dropped[Shutdown] += uint64(left)
	c.books.Removed = true
	c.ahead.Free()
	c.fresh, c.backlog, c.again, c.sent, c.proven, c.left, c.bytes = nil, nil, nil, nil, 0, 0, 0
	notify(c.more)
	s.removed = append(s.removed, c.books)
}

// snapshot returns the books.
func (c *Cursor) snapshot() Books {
	s := c.store
	b := c.books
	b.Forwarded = slices.Clone(b.Forwarded)
	b.QueueLimit, b.SpoolLimit = c.Queue, c.Spool
	count := func(all records.Spans, l *log) {
		lines, bytes := all.Within(l.memory())
		b.Queued += lines
		b.QueueBytes += bytes
		if lines, bytes = all.Within(l.disk()); lines == 0 {
			return
		}
		b.Spooled += lines
		b.SpoolBytes += bytes
		if g := l.at(all[0].From); g != nil && (b.Oldest.IsZero() || g.Born.Before(b.Oldest)) {
			b.Oldest = g.Born
		}
	}
	all := c.undelivered()
	for _, p := range c.sent {
		if p.lost && !p.delivered { // only the kernels have it
			lines, _ := all.Remove(p.Span)
			b.Queued += lines
		}
	}
	count(all, &s.named)
	count(s.held.all(), &s.held.log)
	return b
}

// Know makes the books show an upstream.
func (c *Cursor) Know(upstream string) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.forward(upstream, 0)
}

func (c *Cursor) forward(upstream string, lines int) {
	for i := range c.books.Forwarded {
		if f := &c.books.Forwarded[i]; f.Upstream == upstream {
			f.Lines += uint64(lines)
			return
		}
	}
	c.books.Forwarded = append(c.books.Forwarded, Forwarded{upstream, uint64(lines)})
}

// More implements outlet.Source.
func (c *Cursor) More() <-chan struct{} { return c.more }

// HasBacklog implements outlet.Source.
func (c *Cursor) HasBacklog() bool {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.isLagging()
}

// isLagging says whether lines wait that younger ones go before: some are on disk, or
// were overtaken. While none are, lines keep their order.
func (c *Cursor) isLagging() bool {
	if len(c.backlog) > 0 {
		return true
	}
	border := c.store.named.border().At
	return len(c.fresh) > 0 && c.fresh[0].From.At < border ||
		slices.ContainsFunc(c.again, func(p piece) bool { return p.From.At < border })
}

var _ outlet.Source = (*Cursor)(nil)
