package proxy

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// A statsdQueue holds StatsD lines in memory, and keeps their books: they change in the
// same critical section as the lists that they speak of, and so balance whenever they are
// read. The lists share one bound in bytes: ready lines wait for the upstream, held ones
// for a name, and parked ones, which have a name, for their claim to be renewed. A batch
// that was put belongs to the queue until it is taken.
type statsdQueue struct {
	more     chan struct{} // cap 1: something is ready
	heldMore chan struct{} // cap 1: something is held
	holding  atomic.Int64  // lines that are held or parked

	mu     sync.Mutex
	closed bool
	books  books
	limit  int64 // bytes in all lists together
	excess int64 // bytes that waited when the limit was lowered, as far as they still do
	bytes  int64

	// The lists, each with its oldest batch first.
	ready  []*batch
	held   []*batch
	parked []*batch // older than all that is held
}

func newStatsDQueue(limit int64) *statsdQueue {
	return &statsdQueue{limit: limit, books: books{forwarded: map[string]uint64{}}, more: make(chan struct{}, 1), heldMore: make(chan struct{}, 1)}
}

func (q *statsdQueue) namesLater() bool          { return false }
func (q *statsdQueue) isHolding() bool           { return q.holding.Load() > 0 }
func (q *statsdQueue) moreHeld() <-chan struct{} { return q.heldMore }

func (q *statsdQueue) accept(t *tally, in ...*batch) (waiting int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.book(t.received, t)
	*t = tally{}
	for _, b := range in {
		q.books.queued += b.lines
		q.put(b)
	}
	return q.bytes
}

// takeOver books what a queue of points adopted that has ended, and forwarded or lost.
func (q *statsdQueue) takeOver(b books) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.adopted += b.adopted
	q.books.dropped[queueFull] += b.dropped[queueFull]
	maps.Copy(q.books.forwarded, b.forwarded)
}

// put appends b to its list and evicts what is over the bound. q.mu is held.
func (q *statsdQueue) put(b *batch) {
	if b.lines == 0 {
		b.free()
		return
	}
	q.excess = min(q.excess, q.bytes)
	if b.unnamed {
		q.hold(&q.held, b)
	} else {
		q.push(&q.ready, b)
		notify(q.more)
	}
	for q.bytes > max(q.limit, q.excess) {
		q.dropFirst(q.oldest(), queueFull)
	}
}

// resize changes the bound. What waits already stays, where less is allowed.
func (q *statsdQueue) resize(f StatsDForward) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.limit, q.excess = int64(f.Queue), q.bytes
}

// park takes back a taken batch whose claim is suspended: it waits, before all
// that is held, until the claim is renewed or lost.
func (q *statsdQueue) park(b *batch) {
	if b.lines == 0 {
		b.free()
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	b.parked = true
	q.hold(&q.parked, b)
}

// hasParked says whether batches wait for their claim: all that is taken from
// the ready ones is younger.
func (q *statsdQueue) hasParked() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.parked) > 0
}

// hold adds b to a list of lines that wait for a claim. q.mu is held.
func (q *statsdQueue) hold(list *[]*batch, b *batch) {
	q.holding.Add(int64(b.lines))
	q.push(list, b)
	notify(q.heldMore)
}

// push appends b to list. Where much waits, a buffer that gets no more lines is cut to
// size, so that it takes little more memory than they do. q.mu is held.
func (q *statsdQueue) push(list *[]*batch, b *batch) {
	q.bytes += int64(len(b.buf))
	if n := len(*list); n > 0 {
		last := (*list)[n-1]
		if last.merge(b) {
			return
		}
		if n >= backlog {
			last.shrink()
		}
	}
	*list = append(*list, b)
}

// backlog is how many batches must wait for buffers to be cut to size: fewer will leave
// before it pays.
const backlog = 8

// first returns the oldest batch of a list, or nil.
func first(list []*batch) *batch {
	if len(list) == 0 {
		return nil
	}
	return list[0]
}

// pop takes the first batch of list, or nil. q.mu is held.
func (q *statsdQueue) pop(list *[]*batch) *batch {
	b := first(*list)
	if b != nil {
		*list = slices.Delete(*list, 0, 1)
		q.bytes -= int64(len(b.buf))
	}
	return b
}

// oldest returns the list that begins with the oldest batch. q.mu is held.
func (q *statsdQueue) oldest() (oldest *[]*batch) {
	for _, list := range []*[]*batch{&q.ready, &q.parked, &q.held} {
		b := first(*list)
		if b != nil && (oldest == nil || b.born.Before((*oldest)[0].born)) {
			oldest = list
		}
	}
	return oldest
}

// dropFirst drops the first batch of list. q.mu is held.
func (q *statsdQueue) dropFirst(list *[]*batch, why reason) {
	b := q.pop(list)
	if list != &q.ready {
		q.holding.Add(-int64(b.lines))
	}
	q.bookDrop(b.lines, why)
	b.free()
}

// tryTake hands over the oldest batch that is ready, or nil. Its lines count as
// queued until the taker books them with forward or drop. It returns
// outlet.ErrDrained when the queue was closed and all its lines are booked.
func (q *statsdQueue) tryTake() (*batch, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b := first(q.parked); b != nil && !isSuspended(b.names.claim) {
		q.holding.Add(-int64(b.lines))
		return q.pop(&q.parked), nil
	}
	if b := q.pop(&q.ready); b != nil {
		return b, nil
	}
	if q.closed && q.books.queued == 0 {
		return nil, outlet.ErrDrained
	}
	return nil, nil
}

// left returns how many lines are in memory, and whether more may come.
func (q *statsdQueue) left() (lines int, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.books.queued, q.closed
}

// takeHeld hands over the oldest batch that waits for a name, or nil. Its lines
// count as held until name is called.
func (q *statsdQueue) takeHeld() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pop(&q.held)
}

// name puts what became of a taken batch of that many held lines.
func (q *statsdQueue) name(lines int, t *tally, in ...*batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range t.dropped {
		q.settle(n)
	}
	q.books.book(0, t)
	*t = tally{}
	for _, b := range in {
		q.put(b)
	}
	q.holding.Add(-int64(lines))
}

// forward books lines of a taken batch as forwarded to an upstream.
func (q *statsdQueue) forward(upstream string, lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.forwarded[upstream] += uint64(lines)
	q.settle(lines)
}

// drop books lines of a taken batch as dropped.
func (q *statsdQueue) drop(lines int, why reason) {
	if lines == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bookDrop(lines, why)
}

func (q *statsdQueue) expire(now, noNameBefore time.Time) {
	q.dropOld(now, noNameBefore)
	notify(q.more)
}

// dropOld drops the lines that are too old: all after 10 s, and held ones that
// arrived before noNameBefore, unless that is zero.
func (q *statsdQueue) dropOld(now, noNameBefore time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, list := range []*[]*batch{&q.ready, &q.parked, &q.held} {
		for b := first(*list); b != nil && b.tooOld(now); b = first(*list) {
			q.dropFirst(list, tooOld)
		}
	}
	for b := first(q.held); b != nil && b.born.Before(noNameBefore); b = first(q.held) {
		q.dropFirst(&q.held, noName)
	}
}

// abandon drops all that still waits, at the end of the drain, and returns how
// many lines were dropped for the sake of the end.
func (q *statsdQueue) abandon() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	for list := q.oldest(); list != nil; list = q.oldest() {
		q.dropFirst(list, shutdown)
	}
	q.bookDrop(q.books.queued, shutdown) // taken by who writes to a stdout that nobody reads
	return q.books.dropped[shutdown]
}

func (q *statsdQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	notify(q.more)
}

// know makes the books show these upstreams.
func (q *statsdQueue) know(to []address.Upstream) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, a := range to {
		q.books.forwarded[a.String()] += 0
	}
}

// bookDrop books lines in memory that are dropped. q.mu is held.
func (q *statsdQueue) bookDrop(lines int, why reason) {
	q.books.dropped[why] += uint64(lines)
	q.settle(lines)
}

// settle books that lines are in memory no more. q.mu is held.
func (q *statsdQueue) settle(lines int) {
	if q.books.queued -= lines; q.closed && q.books.queued == 0 {
		notify(q.more) // it is drained
	}
}

// lost counts the lines that were dropped because they could not leave.
func (q *statsdQueue) lost() (n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, why := range []reason{tooOld, claimLost, queueFull, sendError} {
		n += q.books.dropped[why]
	}
	return n
}

func (q *statsdQueue) account() account {
	q.mu.Lock()
	defer q.mu.Unlock()
	return newAccount(q.books, q.bytes, q.limit)
}
