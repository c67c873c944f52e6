package proxy

import (
	"context"
	"errors"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
)

// A tally counts what one read brought, until the queue books it.
type tally struct {
	received  int
	rewritten int
	dropped   [numReasons]int
}

// A queue holds one protocol's lines between the readers and the upstream, and
// keeps that protocol's books. Its lists share one bound in bytes: ready lines
// wait for the upstream, held ones for a name, and parked ones, which have a
// name, for their claim to be renewed. Any goroutine may call any method; a
// batch that was put belongs to the queue until it is taken.
//
// Every change of the books happens in the same critical section as the change
// of the lists that it speaks of, so that they balance whenever they are read.
type queue struct {
	limit  int           // bytes in both lists together
	maxAge time.Duration // lines older than this are dropped; 0: lines keep

	// suspended says whether parked lines of a claim must go on waiting.
	suspended func(claim *membership.Claim) bool

	// holding counts the lines that are held, parked, or in the hands of the
	// namer. While it is not 0, later lines must queue up behind them, so that
	// they keep their order.
	holding atomic.Int64

	mu       sync.Mutex
	ready    fifo
	held     fifo
	parked   fifo // older than all that is held
	bytes    int
	closed   bool
	books    books
	more     chan struct{} // cap 1: something is ready
	moreHeld chan struct{} // cap 1: something is held
	drained  chan struct{} // closed once the queue is closed and all lines are booked
}

// errDrained says that a queue was closed and nothing of it is left.
var errDrained = errors.New("the queue is drained")

// books is the account of one protocol in lines.
type books struct {
	received, adopted, rewritten, resent uint64
	forwarded                            []uint64 // by upstream, in the order of the failover list
	dropped                              [numReasons]uint64
	queued                               int // in the lists, or in the hands of the upstream or of the namer
}

func newQueue(limit int, maxAge time.Duration, upstreams int) *queue {
	return &queue{
		limit: limit, maxAge: maxAge,
		books: books{forwarded: make([]uint64, upstreams)},
		more:  make(chan struct{}, 1), moreHeld: make(chan struct{}, 1), drained: make(chan struct{}),
	}
}

// accept books what a read brought and puts its batches, which it takes. It
// never blocks: to make room, the oldest lines go.
func (q *queue) accept(t *tally, in ...*batch) {
	if q.enter(t, in) > crowded {
		runtime.Gosched() // readers that always find input would keep the upstream from its turn
	}
}

// crowded is how many bytes may be ready before the readers let the upstream go
// first.
const crowded = 4 * batchSize

// enter is accept, and returns how many bytes wait.
func (q *queue) enter(t *tally, in []*batch) (bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.received += uint64(t.received)
	q.book(t)
	for _, b := range in {
		q.books.queued += b.lines
		q.put(b)
	}
	return q.bytes
}

// book adds the part of t that is not about receiving, and clears t.
func (q *queue) book(t *tally) {
	q.books.rewritten += uint64(t.rewritten)
	for r, n := range t.dropped {
		q.books.dropped[r] += uint64(n)
	}
	*t = tally{}
}

// put appends b to its list and evicts what is over the bound. q.mu is held.
func (q *queue) put(b *batch) {
	if b.lines == 0 {
		b.free()
		return
	}
	if b.unnamed {
		q.hold(&q.held, b)
	} else {
		q.push(&q.ready, b)
		notify(q.more)
	}
	for q.bytes > q.limit {
		q.drop1(q.oldest(), queueFull)
	}
}

// park takes back a taken batch whose claim is suspended: it waits, before all
// that is held, until the claim is renewed or lost.
func (q *queue) park(b *batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b.parked = true
	q.hold(&q.parked, b)
}

// hasParked says whether batches wait for their claim: all that is taken from
// the ready ones is younger.
func (q *queue) hasParked() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.parked.first() != nil
}

// hold adds b to a list of lines that wait for a claim. q.mu is held.
func (q *queue) hold(list *fifo, b *batch) {
	q.holding.Add(int64(b.lines))
	q.push(list, b)
	notify(q.moreHeld)
}

// push appends b to list. Where much waits, buffers are filled up or cut to
// size, so that it takes little more memory than the lines do. q.mu is held.
func (q *queue) push(list *fifo, b *batch) {
	q.bytes += len(b.buf)
	tail, span := list.last(), mergeSpan
	if q.maxAge == 0 && list == &q.ready {
		span = math.MaxInt64 // lines with a name and a time of their own: age is no matter
	}
	if tail != nil && tail.merge(b, span) {
		return
	}
	if list.len() >= backlog {
		if tail.isLike(b, span) {
			tail.fill(b)
		}
		tail.shrink()
	}
	list.push(b)
}

// backlog is how many batches must wait for buffers to be filled up, or cut to
// size: fewer will leave before it pays.
const backlog = 8

// pop takes the first batch of list, or nil. q.mu is held.
func (q *queue) pop(list *fifo) *batch {
	b := list.pop()
	if b != nil {
		q.bytes -= len(b.buf)
	}
	return b
}

// oldest returns the list that begins with the oldest batch. q.mu is held.
func (q *queue) oldest() *fifo {
	var oldest *fifo
	for _, list := range []*fifo{&q.ready, &q.parked, &q.held} {
		b := list.first()
		if b != nil && (oldest == nil || b.born.Before(oldest.first().born)) {
			oldest = list
		}
	}
	return oldest
}

// drop1 drops the first batch of list. q.mu is held.
func (q *queue) drop1(list *fifo, why reason) {
	b := q.pop(list)
	if list != &q.ready {
		q.holding.Add(-int64(b.lines))
	}
	q.bookDrop(b.lines, why)
	b.free()
}

// bookDrop books lines that leave the queue by being dropped. q.mu is held.
func (q *queue) bookDrop(lines int, why reason) {
	q.books.dropped[why] += uint64(lines)
	q.settle(lines)
}

// settle books that lines wait no more. q.mu is held.
func (q *queue) settle(lines int) {
	q.books.queued -= lines
	if q.closed && q.books.queued == 0 {
		q.drain()
	}
}

// drain says that the queue is closed and empty. q.mu is held.
func (q *queue) drain() {
	select {
	case <-q.drained:
	default:
		close(q.drained)
	}
}

// take hands over the oldest batch that is ready, and waits for one. Its lines
// count as queued until the taker books them with forward or drop. It returns
// errDrained when the queue was closed and all its lines are booked.
func (q *queue) take(ctx context.Context) (*batch, error) {
	for {
		if b, err := q.tryTake(); b != nil || err != nil {
			return b, err
		}
		select {
		case <-q.more:
		case <-q.drained:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *queue) tryTake() (*batch, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if b := q.parked.first(); b != nil && !q.suspended(b.claim) {
		q.holding.Add(-int64(b.lines))
		return q.pop(&q.parked), nil
	}
	if b := q.pop(&q.ready); b != nil {
		return b, nil
	}
	if q.closed && q.books.queued == 0 {
		return nil, errDrained
	}
	return nil, nil
}

// takeHeld hands over the oldest batch that waits for a name, or nil. Its lines
// count as held until name is called.
func (q *queue) takeHeld() *batch {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pop(&q.held)
}

// name puts what became of a held batch of so many lines: the batches in, which
// it takes, hold those that got a name, t counts the others.
func (q *queue) name(lines int, t *tally, in ...*batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, n := range t.dropped {
		q.settle(n)
	}
	q.book(t)
	for _, b := range in {
		q.put(b)
	}
	q.holding.Add(-int64(lines))
}

// wake makes the upstream look again: a claim may have been renewed or lost.
func (q *queue) wake() { notify(q.more) }

// forward books lines of a taken batch as forwarded to an upstream.
func (q *queue) forward(upstream, lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.forwarded[upstream] += uint64(lines)
	q.settle(lines)
}

// drop books lines of a taken batch as dropped.
func (q *queue) drop(lines int, why reason) {
	if lines == 0 {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.bookDrop(lines, why)
}

// resend books lines that are going to be sent again.
func (q *queue) resend(lines int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.resent += uint64(lines)
}

// expire drops the lines that are too old: all after maxAge, and held ones
// that arrived before noNameBefore, unless that is zero.
func (q *queue) expire(now, noNameBefore time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, list := range []*fifo{&q.ready, &q.parked, &q.held} {
		for b := list.first(); b != nil && q.tooOld(b, now); b = list.first() {
			q.drop1(list, tooOld)
		}
	}
	for b := q.held.first(); b != nil && b.born.Before(noNameBefore); b = q.held.first() {
		q.drop1(&q.held, noName)
	}
}

// tooOld says whether b holds lines that may not leave any more.
func (q *queue) tooOld(b *batch, now time.Time) bool {
	return q.maxAge > 0 && now.Sub(b.born) > q.maxAge
}

// close says that nothing more will be accepted.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.settle(0)
}

// abandon drops all that still waits, at the end of the drain, and returns how
// many lines were dropped for the sake of the end.
func (q *queue) abandon() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	for list := q.oldest(); list != nil; list = q.oldest() {
		q.drop1(list, shutdown)
	}
	return q.books.dropped[shutdown]
}

// lost counts the lines that were dropped because they could not leave.
func (q *queue) lost() (n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, why := range []reason{tooOld, claimLost, queueFull, spoolFull, sendError} {
		n += q.books.dropped[why]
	}
	return n
}

// snapshot returns the books and the bytes in the lists, of one instant.
func (q *queue) snapshot() (books, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.books
	b.forwarded = append([]uint64(nil), b.forwarded...)
	return b, q.bytes
}

// report gives the books as they are shown to people and programs.
func (b books) report() Books {
	r := Books{
		Received: b.received, Adopted: b.adopted, Resent: b.resent,
		Queued: uint64(b.queued), Dropped: map[string]uint64{},
	}
	for _, n := range b.forwarded {
		r.Forwarded += n
	}
	for why := range reasons {
		if n := b.dropped[why]; n > 0 {
			r.Dropped[why.String()] = n
		}
	}
	return r
}

// notify puts a token into c unless one is there.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// A fifo is a list of batches, the oldest first, in a slice that slides.
type fifo struct {
	list []*batch
	head int
}

func (f *fifo) push(b *batch) {
	if f.head > 0 && len(f.list) == cap(f.list) {
		n := copy(f.list, f.list[f.head:])
		clear(f.list[n:])
		f.list, f.head = f.list[:n], 0
	}
	f.list = append(f.list, b)
}

func (f *fifo) pop() *batch {
	b := f.first()
	if b != nil {
		f.list[f.head] = nil
		f.head++
	}
	if f.head == len(f.list) {
		f.list, f.head = f.list[:0], 0
	}
	return b
}

func (f *fifo) len() int { return len(f.list) - f.head }

func (f *fifo) first() *batch {
	if f.head == len(f.list) {
		return nil
	}
	return f.list[f.head]
}

func (f *fifo) last() *batch {
	if f.head == len(f.list) {
		return nil
	}
	return f.list[len(f.list)-1]
}
