package store

import (
	"cmp"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/records"
)

// Begin implements outlet.Source.
func (c *Cursor) Begin(now time.Time, with outlet.Session) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.session = session{Session: with, linked: true, began: now}
	notify(s.work) // it may be read ahead
	notify(c.more)
}

// Next implements outlet.Source.
func (c *Cursor) Next(now time.Time) (lines []byte, wait time.Duration, err error) {
	if len(c.hand) > 0 {
		return c.hand, 0, nil
	}
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		if c.isDrained() {
			return nil, 0, outlet.ErrDrained
		}
		p := c.pick(now)
		if p.from == nowhere {
			return nil, p.wait, nil
		}
		if c.fetch(p.Span) && c.take(&p) {
			c.hand = c.cur.Data
			c.send(now, p)
			return c.hand, 0, nil
		}
	}
}

// fetch makes the head of sp what c.cur has. s.mu is held, but not while it reads.
func (c *Cursor) fetch(sp records.Span) bool {
	s := c.store
	if c.ahead.Begins(sp) {
		c.cur.Free()
		c.cur, c.ahead = c.ahead, records.Chunk{}
		notify(s.work)
		return true
	}
	c.cur.Span = sp
	ok, _ := s.load(&s.named, &c.cur)
	return ok
}

// A pick is what is to be sent next.
type pick struct {
	piece
	from origin
	late bool          // it is of the backlog
	wait time.Duration // from nowhere: when to ask again
}

// Where a pick comes from.
type origin int

const (
	nowhere origin = iota
	fromFresh
	fromAgain
	fromBacklog
)

// pick returns what is to be sent now. c's store is locked.
func (c *Cursor) pick(now time.Time) pick {
	if c.books.Removed {
		return pick{}
	}
	if !c.isLagging() {
		if len(c.again) > 0 && (c.again[0].sends < 2 || len(c.fresh) == 0) {
			return pick{piece: c.again[0], from: fromAgain}
		}
	} else {
		c.age(now)
	}
	if len(c.fresh) > 0 && c.fresh[0].From.At >= c.store.named.border().At {
		return pick{piece: piece{Span: c.fresh[0]}, from: fromFresh}
	}
	p := c.pickBacklog()
	if wait := c.burst.pause(now); wait > 0 && p.from != nowhere && !c.store.closed {
		return pick{wait: wait}
	}
	return p
}

// pickBacklog returns what of the backlog is to be sent next: the oldest, which was
// read from disk, or else what is in memory.
func (c *Cursor) pickBacklog() pick {
	s := c.store
	if p := c.onDisk(); p.from != nowhere && !s.closed {
		if c.ahead.Begins(p.Span) {
			return p
		}
		notify(s.work)
	}
	return c.oldestIn(s.named.memory())
}

// onDisk returns what of the cursor is to be read from disk next.
func (c *Cursor) onDisk() pick { return c.oldestIn(c.store.named.disk()) }

// oldestIn returns what of one tier is to be sent next, where it is late.
func (c *Cursor) oldestIn(tier records.Span) pick {
	for _, p := range c.again {
		if tier.Holds(p.Span) {
			return pick{piece: p, from: fromAgain, late: true}
		}
	}
	if sp := c.backlog.First(tier); !sp.IsEmpty() {
		return pick{piece: piece{Span: sp}, from: fromBacklog, late: true}
	}
	return pick{}
}

// age moves what is on disk, and what has waited for long, out of the way of what has
// not. Once it has, it takes a while until it does again.
func (c *Cursor) age(now time.Time) {
	l := &c.store.named
	if len(c.fresh) == 0 {
		return
	}
	live := l.border()
	if !c.store.closed && c.fresh[0].From.At < l.since(now.Add(-liveAge)).At {
		if p := l.since(now.Add(-liveAge / 2)); p.At > live.At {
			live = p
		}
	}
	for len(c.fresh) > 0 && c.fresh[0].From.At < live.At {
		old := c.fresh[0].Within(records.Span{To: live})
		c.backlog.Add(old)
		c.fresh.Remove(old)
	}
	notify(c.store.work)
}

// take takes what was got of p from where it was. It returns false where it is there
// no more.
func (c *Cursor) take(p *pick) bool {
	got := c.cur.Span
	switch p.from {
	case fromFresh:
		if !c.fresh.Holds(got) {
			return false
		}
		c.fresh.Remove(got)
	case fromBacklog:
		if !c.backlog.Holds(got) {
			return false
		}
		c.backlog.Remove(got)
	case fromAgain:
		i := slices.IndexFunc(c.again, func(q piece) bool { return q.From == got.From && q.Holds(got) })
		if i < 0 {
			return false
		}
		c.again[i].From = got.To
		if c.again[i].IsEmpty() {
			c.again = slices.Delete(c.again, i, i+1)
		}
	}
	p.Span = got
	return true
}

// send books that p is in hand.
func (c *Cursor) send(now time.Time, p pick) {
	p.size = len(c.hand)
	c.handed += uint64(p.size)
	p.end = c.handed
	if p.sends > 0 {
		c.books.Resent += uint64(p.Lines())
	}
	p.sends = min(p.sends+1, 100)
	c.sent = append(c.sent, p.piece)
	if p.late {
		c.burst.send(now, p.piece)
	}
}

// isDrained says whether nothing more is to be sent, and all that was is delivered.
// What is on disk waits for the next process. c's store is locked.
func (c *Cursor) isDrained() bool {
	s := c.store
	if c.books.Removed {
		return true
	}
	if !s.closed || s.IsHolding() || c.proven < len(c.sent) {
		return false
	}
	onDisk, _ := c.undelivered().Within(s.named.disk())
	return c.left == onDisk
}

// Expire implements outlet.Source: while there is no session, nothing becomes too old.
func (c *Cursor) Expire(time.Time) (again time.Duration, err error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.isDrained() {
		return 0, outlet.ErrDrained
	}
	return 0, nil
}

// Refuse implements outlet.Source. It is never called: no line is too long for a
// stream.
func (c *Cursor) Refuse(int) {}

// Lost implements outlet.Source.
func (c *Cursor) Lost() (n uint64) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.books.Dropped[QueueFull] + c.books.Dropped[SpoolFull]
}

// Wrote implements outlet.Source.
func (c *Cursor) Wrote(now time.Time, n int) {
	c.hand = c.hand[n:]
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	c.written += uint64(n)
}

// Ack implements outlet.Source.
func (c *Cursor) Ack(now time.Time, peer outlet.Peer) (due outlet.Due, err error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.window = max(c.window, peer.Window)
	c.note(now, peer.Acked)
	if c.mature(now) {
		s.sweep()
		s.save()
	}
	if len(c.acks) > 0 {
		due.Again = c.acks[0].when.Add(maturity).Sub(now)
	}
	return due, nil
}

// Leaving implements outlet.Source: what is in doubt is sent again.
func (c *Cursor) Leaving() func() time.Duration { return nil }

// note takes note of what the peer's kernel has.
func (c *Cursor) note(now time.Time, n uint64) {
	n = min(n, c.written)
	if n <= c.acked {
		return
	}
	c.acked = n
	c.burst.ack(now, n)
	if last := len(c.acks) - 1; last >= 0 && now.Sub(c.acks[last].first) < markEvery && int64(n-c.acks[last].from) < c.mostInDoubt()/8 {
		c.acks[last].when, c.acks[last].bytes = now, n
		return
	}
	c.acks = append(c.acks, ack{now, now, n, n})
}

// mature books what was delivered by now. It returns whether anything changed. A peer
// that has acknowledged so much more that no kernel could hold it has read it.
func (c *Cursor) mature(now time.Time) (changed bool) {
	for len(c.acks) > 0 && (c.Certain || now.Sub(c.acks[0].when) >= maturity || int64(c.acked-c.acks[0].bytes) > c.mostInDoubt()) {
		changed = c.deliver(c.acks[0].bytes) || changed
		c.acks = slices.Delete(c.acks, 0, 1)
	}
	if changed {
		c.trim(now)
	}
	return changed
}

// kernelHolds is more than the kernels between us and a program that does not read will
// acknowledge, where they don't tell (net.ipv4.tcp_rmem allows 6 MiB, and 32 since Linux
// 6.16, where nobody has changed it).
const kernelHolds = 8 << 20

// mostInDoubt is how many bytes a peer may have acknowledged and not read.
func (c *Cursor) mostInDoubt() int64 {
	return max(c.Queue/4, c.Replay, kernelHolds, 2*c.window)
}

// replayed is how many of them are sent again on the next session: what its kernel holds
// may be lost with it, which was seen to be an eighth more than it ever offered to take at
// once. It is not to fill the queue.
func (c *Cursor) replayed() int64 {
	if c.Replay == 0 {
		return 0
	}
	return c.Replay + min(c.window+c.window/4, c.Queue/2)
}

// deliver books that the peer has the first n bytes of the session.
func (c *Cursor) deliver(n uint64) bool {
	first := c.proven
	i, kept := first, first
	for ; i < len(c.sent) && c.sent[i].end <= n; i++ {
		p := c.sent[i]
		if !p.delivered {
			p.delivered = true
			c.forward(c.Upstream, p.Lines())
			c.settle(p.Lines(), p.kept())
		}
		if kept > 0 && c.sent[kept-1].grow(p, records.MaxRecord*(1+kept/(manyPieces/16))) {
			continue
		}
		c.sent[kept] = p
		kept++
	}
	c.sent = slices.Delete(c.sent, kept, i)
	c.proven = kept
	return i > first
}

// manyPieces is how many may be sent before what is delivered is known less well, for
// the memory it takes.
const manyPieces = 4096

// grow appends what follows, if the two may be one of so many bytes.
func (p *piece) grow(next piece, most int) bool {
	if p.To != next.From || p.sends != next.sends || p.idle != next.idle || p.lost != next.lost || p.size+next.size > most {
		return false
	}
	p.To, p.size, p.end = next.To, p.size+next.size, next.end
	return true
}

// trim lets go of what was delivered before the replay window, whose last part is
// what was acknowledged and is not delivered yet. On a session that is young all is
// kept, as far as there is room: however much follows, its peer may lose it all.
func (c *Cursor) trim(now time.Time) {
	if now.Sub(c.began) < young {
		return
	}
	most := c.replayed()
	window := int64(0)
	for i := len(c.sent) - 1; i >= 0; i-- {
		if c.sent[i].end > c.acked {
			continue
		}
		if i < c.proven && window >= most {
			c.sent = slices.Delete(c.sent, 0, i+1)
			c.proven -= i + 1
			return
		}
		window += int64(c.sent[i].size)
	}
}

// End implements outlet.Source.
func (c *Cursor) End(now time.Time, how outlet.Ending) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.mature(now)
	c.takeBack()
	isAcked := c.acked == c.handed
	isOrderly := isAcked && (how == outlet.Finished || how == outlet.Closed && len(c.acks) == 0)
	isOld := now.Sub(c.began) >= young
	if c.Certain {
		c.deliver(c.acked)
		c.sent, c.proven = c.sent[c.proven:], 0
	}
	c.trim(now)
	if isOrderly && isOld {
		c.deliver(c.acked)
		c.sent = nil
	}
	again := make([]piece, 0, len(c.sent)+len(c.again))
	for _, p := range c.sent {
		if isOrderly && p.delivered {
			p.idle++
		}
		switch {
		case p.lost && !p.delivered:
			c.drop(p.Lines(), p.kept(), p.why)
		case p.lost, p.idle > maxIdle:
		default:
			again = append(again, p)
		}
	}
	c.again = append(again, c.again...)
	// A server that breaks one session after the other is to get all in turn.
	slices.SortStableFunc(c.again, func(a, b piece) int { return cmp.Compare(max(1, a.sends), max(1, b.sends)) })
	c.sent, c.proven = nil, 0
	c.ahead.Free()
	c.hand = nil
	c.session = session{}
	s.sweep()
	s.save()
}

// takeBack undoes the sending of what is in hand, if nothing of it was written.
func (c *Cursor) takeBack() {
	last := len(c.sent) - 1
	if last < 0 || c.handed-uint64(c.sent[last].size) < c.written || c.handed == c.written {
		return
	}
	p := c.sent[last]
	c.sent = c.sent[:last]
	c.handed -= uint64(p.size)
	if p.lost {
		if !p.delivered {
			c.drop(p.Lines(), p.kept(), p.why)
		}
		return
	}
	if p.sends--; p.sends > 0 {
		c.books.Resent -= uint64(p.Lines())
		c.again = slices.Insert(c.again, 0, p)
	} else {
		c.fresh.Add(p.Span)
	}
}

// pause returns how long no more of the backlog is to be sent.
func (b *burst) pause(now time.Time) time.Duration {
	if b.bytes < burstBytes {
		return b.rest.Sub(now)
	}
	b.looks++ // until it is acknowledged
	return min(time.Millisecond<<min(b.looks, 10), longestLook)
}

func (b *burst) send(now time.Time, p piece) {
	if b.bytes == 0 {
		b.began = now
	}
	b.bytes += p.size
	b.end = p.end
}

func (b *burst) ack(now time.Time, acked uint64) {
	b.looks = 0
	if b.bytes > 0 && acked >= b.end {
		*b = burst{rest: now.Add(now.Sub(b.began) / burstRest)}
	}
}
