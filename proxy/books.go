package proxy

import (
	"time"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
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
	forwarded                            map[string]uint64 // by upstream, also of those that a reload has removed
	dropped                              [numReasons]uint64
	queued                               int // in memory: waiting, in somebody's hands, or not acknowledged
	spooled                              int // on disk
}

// An account is the books of StatsD, or of one destination of Carbon, and how full its
// queue is, of one instant.
type account struct {
	books
	bound   Bound
	removed bool             // it is a destination no more
	series  *aggregate.Stats // of StatsD that becomes points
}

// A queue holds one protocol's lines between the readers and the upstream, and
// keeps that protocol's books. Any goroutine may call any method.
type queue interface {
	// accept books what a read brought and puts its batches, which it takes.
	// It never blocks: to make room, the oldest lines go. It returns how many
	// bytes wait.
	accept(t *tally, in ...*batch) (waiting int64)

	// namesLater says whether what becomes of a line is named when it leaves, so that it
	// is enough to know the name, be the claim suspended.
	namesLater() bool

	// isHolding says whether lines wait for a name: later ones must queue up
	// behind them, so that they keep their order.
	isHolding() bool

	// takeHeld hands over the oldest lines that wait for a name, or nil. They
	// count as held until name is called.
	takeHeld() *batch

	// name puts what became of that many held lines: the batches in, which it
	// takes, hold those that got a name, t counts the others.
	name(lines int, t *tally, in ...*batch)

	// expire drops the lines that are too old, and held ones that arrived
	// before noNameBefore, unless that is zero. It makes the upstream look again: a claim
	// may have been renewed or lost.
	expire(now, noNameBefore time.Time)

	// close says that nothing more will be accepted.
	close()

	// moreHeld receives when something is held.
	moreHeld() <-chan struct{}
}

// book adds t, and how many lines count as received with it. Most reads drop nothing.
func (b *books) book(received int, t *tally) {
	b.received += uint64(received)
	b.rewritten += uint64(t.rewritten)
	if t.dropped != [numReasons]int{} {
		for r, n := range t.dropped {
			b.dropped[r] += uint64(n)
		}
	}
}

// report gives the books as they are shown to people and programs.
func (b books) report() Books {
	r := Books{
		Received: b.received, Adopted: b.adopted, Resent: b.resent,
		Queued: uint64(b.queued), Spooled: uint64(b.spooled), Dropped: map[string]uint64{},
	}
	for _, lines := range b.forwarded {
		r.Forwarded += lines
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
