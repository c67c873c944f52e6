package proxy

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// A tally counts what one read brought, until the queue books it.
type tally struct {
	received  int
	rewritten int
	dropped   [numReasons]int
}

// books is the account of one protocol in lines.
type books struct {
	received, adopted, rewritten, resent uint64
	forwarded                            []forwarded
	dropped                              [numReasons]uint64
	queued                               int // in memory: waiting, in somebody's hands, or not acknowledged
	spooled                              int // on disk
}

// forwarded counts the lines that one upstream took. It stays when a reload
// removes the upstream.
type forwarded struct {
	upstream string
	lines    uint64
}

// A queue holds one protocol's lines between the readers and the upstream, and
// keeps that protocol's books. Any goroutine may call any method.
type queue interface {
	// accept books what a read brought and puts its batches, which it takes.
	// It never blocks: to make room, the oldest lines go.
	accept(t *tally, in ...*batch)

	// namesLater says whether what becomes of a line is named when it leaves, so that it
	// is enough to know the name, be the claim suspended.
	namesLater() bool

	// isHolding says whether lines wait for a name: later ones must queue up
	// behind them, so that they keep their order.
	isHolding() bool

	// takeHeld hands over the oldest lines that wait for a name, or nil. They
	// count as held until name is called.
	takeHeld() *batch

	// name puts what became of so many held lines: the batches in, which it
	// takes, hold those that got a name, t counts the others.
	name(lines int, t *tally, in ...*batch)

	// expire drops the lines that are too old, and held ones that arrived
	// before noNameBefore, unless that is zero.
	expire(now, noNameBefore time.Time)

	// wake makes the upstream look again: a claim may have been renewed or lost.
	wake()

	// close says that nothing more will be accepted.
	close()

	// snapshot returns the books and the bytes in memory, of one instant.
	snapshot() (books, int)

	// moreHeld receives when something is held.
	moreHeld() <-chan struct{}
}

// A ledger is the books of a queue in memory, and its bells. Every change of the
// books happens in the same critical section as the change of the lists that it
// speaks of, so that they balance whenever they are read.
type ledger struct {
	put  func(b *batch) // puts a batch into the queue, which takes it; mu is held
	size func() int     // bytes in memory; mu is held

	// holding counts the lines in memory that wait for a name, or for their
	// claim to be renewed.
	holding atomic.Int64

	mu       sync.Mutex
	closed   bool
	books    books
	more     chan struct{} // cap 1: something is ready
	heldMore chan struct{} // cap 1: something is held
	drained  chan struct{} // closed once the queue is closed and no line is in memory
}

func (l *ledger) init(put func(*batch), size func() int) {
	l.put, l.size = put, size
	l.more, l.heldMore, l.drained = make(chan struct{}, 1), make(chan struct{}, 1), make(chan struct{})
}

func (l *ledger) moreHeld() <-chan struct{} { return l.heldMore }

func (l *ledger) namesLater() bool { return false }

func (l *ledger) isHolding() bool { return l.holding.Load() > 0 }

func (l *ledger) accept(t *tally, in ...*batch) {
	if l.enter(t, in) > crowded {
		runtime.Gosched() // readers that always find input would keep the upstream from its turn
	}
}

// enter is accept, and returns how many bytes wait.
func (l *ledger) enter(t *tally, in []*batch) (bytes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.books.received += uint64(t.received)
	l.books.book(t)
	for _, b := range in {
		l.books.queued += b.lines
		l.put(b)
	}
	return l.size()
}

// rename books and puts what became of held lines. mu is held.
func (l *ledger) rename(t *tally, in []*batch) {
	for _, n := range t.dropped {
		l.settle(n)
	}
	l.books.book(t)
	for _, b := range in {
		l.put(b)
	}
}

// book adds the part of t that is not about receiving, and clears t.
func (b *books) book(t *tally) {
	b.rewritten += uint64(t.rewritten)
	for r, n := range t.dropped {
		b.dropped[r] += uint64(n)
	}
	*t = tally{}
}

// bookForward books lines that an upstream took. mu is held.
func (l *ledger) bookForward(upstream string, lines int) {
	for i := range l.books.forwarded {
		if f := &l.books.forwarded[i]; f.upstream == upstream {
			f.lines += uint64(lines)
			return
		}
	}
	l.books.forwarded = append(l.books.forwarded, forwarded{upstream, uint64(lines)})
}

// know makes the books show these upstreams.
func (l *ledger) know(to []outlet.Address) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range to {
		l.bookForward(a.String(), 0)
	}
}

// bookDrop books lines in memory that are dropped. mu is held.
func (l *ledger) bookDrop(lines int, why reason) {
	l.books.dropped[why] += uint64(lines)
	l.settle(lines)
}

// settle books that lines are in memory no more. mu is held.
func (l *ledger) settle(lines int) {
	l.books.queued -= lines
	if l.closed && l.books.queued == 0 && !l.isDrained() {
		close(l.drained)
		notify(l.more)
	}
}

// isDrained says whether the queue is closed, and empty.
func (l *ledger) isDrained() bool {
	select {
	case <-l.drained:
		return true
	default:
		return false
	}
}

func (l *ledger) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	l.settle(0)
	notify(l.more)
}

func (l *ledger) wake() { notify(l.more) }

// lost counts the lines that were dropped because they could not leave.
func (l *ledger) lost() (n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, why := range []reason{tooOld, claimLost, queueFull, spoolFull, sendError} {
		n += l.books.dropped[why]
	}
	return n
}

func (l *ledger) snapshot() (books, int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.books
	b.forwarded = append([]forwarded(nil), b.forwarded...)
	return b, l.size()
}

// report gives the books as they are shown to people and programs.
func (b books) report() Books {
	r := Books{
		Received: b.received, Adopted: b.adopted, Resent: b.resent,
		Queued: uint64(b.queued), Spooled: uint64(b.spooled), Dropped: map[string]uint64{},
	}
	for _, f := range b.forwarded {
		r.Forwarded += f.lines
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
