package proxy

import (
	"time"

	"github.com/prefixproxy/prefixproxy/internal/journal"
	"github.com/prefixproxy/prefixproxy/internal/spool"
)

// A carbonQueue holds Carbon lines until the kernel of an upstream's host has
// acknowledged them, and the last of them (replay) for longer, to be sent again
// on the next connection:
//
//	         name                        next              ack           ripe
//	raw ────────────→ named ─────────────────────→ unacked ─────→ ripening ─────→ window ──→ gone
//	                    │ lags                ↑       │ Begin        │              │
//	                    └──────→ behind ──────┤       └───────────→ again  ←────────┘
//	                spool ─────→ copied ──────┘
//
// Under pressure, what waits in raw, named and behind goes to the spool. All of
// it lies in segments of a journal, which a successor adopts when the process is
// killed.
type carbonQueue struct {
	ledger
	delivery

	limit   int   // bytes in memory, but for the window and the copies
	excess  int   // bytes that waited when the limit was lowered, as far as they still do
	replay  int   // bytes in the window
	spool   int64 // bytes on disk; 0: there is no spool
	journal *journal.Journal
	unkept  error // why lines are not in the journal's file; nil: they are

	raw    lineLog // waits for a name
	named  lineLog // waits for the upstream
	copied lineLog // read from the spool, and still there

	behind   fifo[*piece] // was named, and lives no more: it gives way to what does
	again    fifo[*piece] // is to be sent again
	unacked  fifo[*piece] // was sent on this connection
	ripening fifo[*piece] // was acknowledged on it, but it has not lived on for long enough
	window   fifo[*piece] // was delivered on it
	naming   *piece       // in the hands of the namer
	spare    []*piece

	bytes         int // of what counts as queued
	unackedBytes  int
	copiedBytes   int // waiting to be sent
	windowBytes   int
	ripeningBytes int
	sent          uint64 // bytes on this connection
	burst         burst
	linked        bool // there is a connection

	committed spool.Record  // acknowledged by the peer, not yet by the spool
	commits   bool          // there is such a record
	keeper    chan struct{} // cap 1: there is something to do for the keeper
}

// How what waits is sent.
const (
	// liveAge is how long a line may wait before it gives way to younger ones,
	// where something is spooled.
	liveAge = time.Second

	// readAhead is how much of the spool is copied to memory before it is sent.
	readAhead = 2 * burstBytes

	// A backlog is sent in bursts of so many bytes, with pauses that are a third
	// as long between them, so that a server that has just come back has time
	// for what is new.
	burstBytes = 1 << 20
	burstRest  = 3

	// burstLook is the longest wait for the acknowledgement of a burst between two
	// looks.
	burstLook = 50 * time.Millisecond
)

// A burst is a part of the backlog that is being sent.
type burst struct {
	began   time.Time
	bytes   int       // sent
	unacked int       // pieces
	looks   int       // since the last was acknowledged
	rest    time.Time // no other one before then
}

// newCarbonQueue returns a queue that no keeper works on yet, and no file keeps.
func newCarbonQueue(f CarbonForward) *carbonQueue {
	q := &carbonQueue{
		limit: int(f.Queue), replay: int(f.Replay), spool: int64(f.Spool), journal: journal.InMemory(),
		raw: lineLog{kind: journal.Raw}, named: lineLog{kind: journal.Named}, copied: lineLog{kind: journal.Copied},
		keeper: make(chan struct{}, 1),
	}
	q.init(q.put, func() int { return q.bytes })
	return q
}

// put copies the lines of b, which it takes. q.mu is held.
func (q *carbonQueue) put(b *batch) {
	defer b.free()
	if b.lines == 0 {
		return
	}
	q.excess = min(q.excess, q.bytes)
	q.bytes += len(b.buf)
	if b.unnamed {
		q.holding.Add(int64(b.lines))
		q.append(&q.raw, b.buf, b.lines, b.born)
		notify(q.moreHeld)
	} else {
		q.append(&q.named, b.buf, b.lines, b.born)
		notify(q.more)
	}
	if q.isPressed() {
		notify(q.keeper)
	}
	for q.bytes > max(q.limit, q.excess) {
		if !q.dropOldest(queueFull) {
			return
		}
	}
}

// resize changes the bounds. What waits already stays, where less is allowed, if
// the spool does not take it.
func (q *carbonQueue) resize(f CarbonForward) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit, q.excess = int(f.Queue), q.bytes
	q.replay, q.spool = int(f.Replay), int64(f.Spool)
	notify(q.keeper)
}

// isPressed says whether lines must go to the spool. q.mu is held.
func (q *carbonQueue) isPressed() bool { return q.spool > 0 && q.bytes > q.limit/2 }

// pressed is isPressed, where something could be taken.
func (q *carbonQueue) pressed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.isPressed() && q.oldest() != nil
}

// lists are those that wait in memory alone.
func (q *carbonQueue) lists() [3]*fifo[*piece] {
	return [...]*fifo[*piece]{&q.behind, &q.named.pieces, &q.raw.pieces}
}

// oldest returns the list that begins with the oldest line; nil: all are empty.
// q.mu is held.
func (q *carbonQueue) oldest() (oldest *fifo[*piece]) {
	for _, list := range q.lists() {
		p := list.first()
		if p != nil && (oldest == nil || p.born.Before(oldest.first().born)) {
			oldest = list
		}
	}
	return oldest
}

// take takes the first piece of a list of those that wait. q.mu is held.
func (q *carbonQueue) take(list *fifo[*piece]) *piece {
	p := list.pop()
	if p != nil && list == &q.raw.pieces {
		q.holding.Add(-int64(p.lines))
	}
	return p
}

// dropOldest drops the oldest piece that waits. q.mu is held.
func (q *carbonQueue) dropOldest(why reason) bool {
	list := q.oldest()
	if list == nil {
		return false
	}
	p := q.take(list)
	q.bookDrop(p.lines, why)
	q.leave(p)
	return true
}

// leave ends the use of a piece that counted as queued. q.mu is held.
func (q *carbonQueue) leave(p *piece) {
	q.bytes -= p.size()
	p.settle()
	q.release(p)
}

func (q *carbonQueue) takeHeld() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	p := q.raw.pieces.pop()
	if p == nil {
		return nil
	}
	q.naming = p
	b := newBatch(p.born, nil, true)
	b.buf = append(b.buf, p.bytes()...)
	b.lines = p.lines
	return b
}

func (q *carbonQueue) name(lines int, t *tally, in ...*batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.rename(t, in)
	q.leave(q.naming)
	q.naming = nil
	q.holding.Add(-int64(lines))
}

// expire drops held lines that arrived before noNameBefore, unless that is zero:
// other lines keep.
func (q *carbonQueue) expire(_, noNameBefore time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for p := q.raw.pieces.first(); p != nil && p.born.Before(noNameBefore); p = q.raw.pieces.first() {
		q.take(&q.raw.pieces)
		q.bookDrop(p.lines, noName)
		q.leave(p)
	}
}

// next hands over the piece that is to be sent now, and counts it as sent; nil:
// there is none, and if wait is not 0, it is worth to look again after that time.
// q.mu is held.
func (q *carbonQueue) next(now time.Time) (p *piece, wait time.Duration) {
	if p = q.again.pop(); p != nil {
		q.books.resent += uint64(p.lines)
	} else if q.unackedBytes < q.limit/2 {
		p, wait = q.fresh(now)
	}
	if p == nil {
		return nil, wait
	}
	q.sent += uint64(p.size())
	p.end = q.sent
	q.unackedBytes += p.size()
	q.unacked.push(p)
	return p, 0
}

// fresh takes a piece that was never sent: a live one if there is any. q.mu is
// held.
func (q *carbonQueue) fresh(now time.Time) (p *piece, wait time.Duration) {
	q.age(now)
	if p = q.named.pieces.pop(); p != nil {
		return p, 0
	}
	if q.closed {
		return q.behind.pop(), 0
	}
	if q.copied.pieces.len()+q.behind.len() == 0 {
		return nil, 0
	}
	if wait = q.burst.pause(now); wait > 0 {
		return nil, wait
	}
	if p = q.copied.pieces.pop(); p != nil {
		q.copiedBytes -= p.size()
		if q.copiedBytes < readAhead/2 {
			notify(q.keeper)
		}
	} else {
		p = q.behind.pop()
	}
	q.burst.send(now, p)
	return p, 0
}

// isLagging says whether lines wait that live ones go before. q.mu is held.
func (q *carbonQueue) isLagging() bool { return q.books.spooled > 0 || q.behind.len() > 0 }

// lags is isLagging.
func (q *carbonQueue) lags() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.isLagging()
}

// age moves what has waited for long behind what has not; but while nothing is
// spooled, lines keep their order. q.mu is held.
func (q *carbonQueue) age(now time.Time) {
	if !q.isLagging() || q.closed {
		return
	}
	for p := q.named.pieces.first(); p != nil && now.Sub(p.born) > liveAge; p = q.named.pieces.first() {
		q.behind.push(q.named.pieces.pop())
	}
}

// pause returns how long no more of the backlog is to be sent.
func (b *burst) pause(now time.Time) time.Duration {
	if b.bytes < burstBytes {
		return b.rest.Sub(now)
	}
	b.looks++ // until it is acknowledged
	return min(time.Millisecond<<min(b.looks, 10), burstLook)
}

func (b *burst) send(now time.Time, p *piece) {
	if b.bytes == 0 {
		b.began = now
	}
	b.bytes += p.size()
	b.unacked++
	p.inBurst = true
}

func (b *burst) ack(now time.Time) {
	b.looks = 0
	if b.unacked--; b.unacked == 0 {
		*b = burst{rest: now.Add(now.Sub(b.began) / burstRest)}
	}
}

// ack takes note of what the peer has acknowledged: so many bytes of this
// connection. q.mu is held.
func (q *carbonQueue) ack(now time.Time, bytes uint64) {
	for p := q.unacked.first(); p != nil && p.end <= bytes; p = q.unacked.first() {
		q.unacked.pop()
		q.unackedBytes -= p.size()
		if p.inBurst {
			p.inBurst = false
			q.burst.ack(now)
		}
		p.acked = now
		q.ripening.push(p)
		q.ripeningBytes += p.size()
	}
}

// prove books a piece that was delivered. q.mu is held.
func (q *carbonQueue) prove(upstream string, p *piece) {
	p.proven = true
	p.settle()
	q.bookForward(upstream, p.lines)
	if !p.isCopy() {
		q.bytes -= p.size()
		q.settle(p.lines)
		return
	}
	q.books.spooled -= p.lines
	if p.isRecord {
		q.committed, q.commits = p.record, true
		notify(q.keeper)
	}
}

// keep keeps a delivered piece for the next connection, and lets go of older
// ones. q.mu is held.
func (q *carbonQueue) keep(now time.Time, p *piece) {
	most := q.replay
	if now.Sub(q.began) < youngAge {
		most = max(most, q.limit-q.bytes)
	}
	q.windowBytes += p.size()
	if last := q.window.last(); last != nil && last.grow(p, mergeSpan) {
		q.release(p)
	} else {
		q.window.push(p)
	}
	for p := q.window.first(); p != nil && q.windowBytes-p.size() >= most; p = q.window.first() {
		q.window.pop()
		q.windowBytes -= p.size()
		q.release(p)
	}
}

// segmentsKept is how many free segments of the journal keep their memory.
const segmentsKept = 4

// left returns how many lines are in memory alone.
func (q *carbonQueue) left() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.books.queued
}

// abandon drops all that waits in memory alone.
func (q *carbonQueue) abandon() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bookDrop(q.books.queued, shutdown)
}
