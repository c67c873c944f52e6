package store

import (
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
	if len(c.hand.Data) > 0 {
		return c.hand.Data, 0, nil
	}
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		c.hand.Free()
		if c.isDrained() {
			return nil, 0, outlet.ErrDrained
		}
		sp, q, wait := c.pick(now)
		if sp.IsEmpty() {
			if wait == 0 && len(c.queues[resting]) > 0 {
				wait = c.began.Add(young).Sub(now)
			}
			return nil, wait, nil
		}
		if c.hand, err = s.load(&c.reader, sp); err != nil {
			return nil, retryAfter, nil
		}
		if c.hand.IsEmpty() || !c.queues[q].Holds(c.hand.Span) {
			continue // it was moved, or is lost
		}
		if c.isLagging() && q != fresh {
			c.burst.send(now, len(c.hand.Data), c.written)
		}
		c.queues[q].Remove(c.hand.Span)
		c.next = part{c.hand.Span, q, c.written + uint64(len(c.hand.Data))}
		return c.hand.Data, 0, nil
	}
}

// pick returns what to send now, and its queue; if that is nothing, when to ask again. What is on
// disk, and what has waited long, gives way to what has not.
func (c *Cursor) pick(now time.Time) (sp records.Span, q queue, wait time.Duration) {
	s := c.store
	if now.Sub(c.began) >= young { // what rests goes with what had its turn
		c.queues[resting].Move(records.Span{To: records.End}, &c.queues[spent])
	}
	if !c.isLagging() {
		sp, q = c.first(s.named.in(inMemory))
		return sp, q, 0
	}
	live := s.named.border()
	if p := s.named.since(now.Add(-liveAge)); p.At > live.At && !s.closed {
		live = p
	}
	c.queues[fresh].Move(records.Span{To: live}, &c.queues[late])
	notify(s.work) // it may be read ahead
	if sp = c.queues[fresh].First(s.named.in(inMemory)); !sp.IsEmpty() {
		return sp, fresh, 0
	}
	if sp, q = c.first(s.named.in(onDisk)); s.closed || !c.ahead.Begins(sp) {
		sp, q = c.first(s.named.in(inMemory))
	}
	if wait = c.burst.pause(now); wait > 0 && !sp.IsEmpty() && !s.closed {
		return records.Span{}, 0, wait
	}
	return sp, q, 0
}

// isDrained says whether there is nothing more to send, and everything sent is delivered. What
// is on disk waits for the next process.
func (c *Cursor) isDrained() bool {
	s := c.store
	return c.books.Removed || s.closed && !s.Held.Any() && len(c.sent) == 0 && !c.todo.Touches(s.named.in(inMemory))
}

// Expire implements outlet.Source: without a session, nothing becomes too old.
func (c *Cursor) Expire(time.Time) (again time.Duration, err error) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if c.isDrained() {
		err = outlet.ErrDrained
	}
	return 0, err
}

// Refuse implements outlet.Source: no line is too long for a stream.
func (c *Cursor) Refuse(int) {}

// Lost implements outlet.Source.
func (c *Cursor) Lost() (n uint64) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	return c.books.Dropped[QueueFull] + c.books.Dropped[SpoolFull]
}

// Wrote implements outlet.Source.
func (c *Cursor) Wrote(now time.Time, n int) {
	c.store.mu.Lock()
	defer c.store.mu.Unlock()
	if n > 0 && !c.next.IsEmpty() {
		c.sent = append(c.sent, c.next)
		if c.next.queue != late && c.next.queue != fresh {
			c.books.Resent += uint64(c.next.Lines())
		}
		c.next = part{}
	}
	c.hand.Data = c.hand.Data[n:]
	c.written += uint64(n)
}

// Ack implements outlet.Source.
func (c *Cursor) Ack(now time.Time, peer outlet.Peer) (due outlet.Due, err error) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.window = max(c.window, peer.Window)
	c.note(now, peer, c.mostInDoubt())
	if c.mature(now) {
		s.settle()
	}
	if len(c.acks) > 0 {
		due.Again = c.acks[0].when.Add(maturity).Sub(now)
	}
	if len(c.queues[resting]) > 0 {
		due.Keep = c.began.Add(young + maturity).Sub(now)
	}
	return due, nil
}

// Repeats implements outlet.Source.
func (c *Cursor) Repeats() bool { return true }

// Leave implements outlet.Source: what is in doubt is sent again.
func (c *Cursor) Leave() (outlet.Leaving, []byte) { return nil, nil }

// note notes how much the peer's kernel has, and since when. mostInDoubt is the cursor's.
func (e *session) note(now time.Time, peer outlet.Peer, mostInDoubt int64) {
	n := min(peer.Acked, e.written)
	if n <= e.acked {
		return
	}
	e.acked = n
	e.burst.ack(now, n)
	now = now.Add(-peer.Heard)
	if last := len(e.acks) - 1; last > 0 && now.Sub(e.acks[last-1].when) < markEvery && int64(n-e.acks[last-1].bytes) < mostInDoubt/8 {
		e.acks = e.acks[:last] // it is combined with this one
	}
	e.acks = append(e.acks, ack{now, n})
}

// mature books what counts as delivered by now, and returns whether anything changed. A peer
// that has since acknowledged more than any kernel could hold has read what came before. What
// lies before the replay window is let go of, but not on a young session: however much follows, its
// peer may lose it all.
func (c *Cursor) mature(now time.Time) (changed bool) {
	for len(c.acks) > 0 && (c.Certain || now.Sub(c.acks[0].when) >= maturity || int64(c.acked-c.acks[0].bytes) > c.mostInDoubt()) {
		changed = c.deliver(c.acks[0].bytes) || changed
		c.acks = slices.Delete(c.acks, 0, 1)
	}
	if now.Sub(c.began) >= young {
		c.trim(c.replayed(), c.acked)
	}
	return changed
}

// kernelHolds is more than the kernels between us and a program that doesn't read acknowledge,
// where they don't tell (net.ipv4.tcp_rmem allows 6 MiB, and 32 since Linux 6.16, unless
// changed).
const kernelHolds = 8 << 20

// mostInDoubt is how many bytes a peer may have acknowledged but not read.
func (c *Cursor) mostInDoubt() int64 {
	return max(c.Queue/4, c.Replay, kernelHolds, 2*c.window)
}

// replayed is how many of them are sent again on the next session: what its kernel holds may be
// lost with it, and was seen to be an eighth more than it ever offered to take at once. They
// must not fill the queue.
func (c *Cursor) replayed() int64 {
	if c.Replay == 0 {
		return 0
	}
	return c.Replay + min(c.window+c.window/4, c.Queue/2)
}

// deliver books that the peer has what was sent up to an offset in the session.
func (c *Cursor) deliver(to uint64) (changed bool) {
	lines, changed := c.needs.deliver(to)
	c.books.Forwarded[c.Upstream] += uint64(lines)
	return changed
}

// End implements outlet.Source.
func (c *Cursor) End(now time.Time, how outlet.Ending) {
	s := c.store
	s.mu.Lock()
	defer s.mu.Unlock()
	c.mature(now)
	c.wait(c.next.Span, c.next.queue)
	isIdle := c.acked == c.written && (len(c.hand.Data) == 0 || !c.next.IsEmpty()) && (how == outlet.Finished || how == outlet.Closed && len(c.acks) == 0)
	isLast := c.books.Removed && how == outlet.Finished
	if c.Certain || isIdle && (isLast || now.Sub(c.began) >= young) {
		c.deliver(c.acked)
		c.trim(0, c.acked)
	}
	c.giveUp(isIdle)
	c.ahead.Free()
	c.hand.Free()
	c.session = session{}
	s.settle()
}

// giveUp makes what was sent wait again, and counts what can't. What rests is bounded.
func (c *Cursor) giveUp(isIdle bool) {
	c.books.Dropped[c.why] += uint64(c.rewind(isIdle))
	for rest := &c.done[maxIdle]; rest.Bytes() > c.Queue/4; {
		sp := c.store.named.at((*rest)[0].From).span()
		rest.Remove(sp)
		c.queues[resting].Remove(sp)
	}
}

// pause returns for how long not to send any more of the backlog.
func (b *burst) pause(now time.Time) time.Duration {
	if b.bytes < burstBytes {
		return b.rest.Sub(now)
	}
	return min(max(now.Sub(b.began), time.Millisecond), longestLook) // until it is acknowledged
}

func (b *burst) send(now time.Time, n int, from uint64) {
	if b.bytes == 0 {
		b.began = now
	}
	b.bytes += n
	b.end = from + uint64(n)
}

func (b *burst) ack(now time.Time, acked uint64) {
	if b.bytes > 0 && acked >= b.end {
		*b = burst{rest: now.Add(now.Sub(b.began) / burstRest)}
	}
}
