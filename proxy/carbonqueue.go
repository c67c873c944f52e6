package proxy

import (
	"log/slog"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/store"
)

// A carbonQueue puts Carbon lines into the store, where they stay until every
// destination has them, and keeps the books of what is decided before: what was
// received, and what of it was dropped at once.
type carbonQueue struct {
	mu    sync.Mutex
	store *store.Store
	total books // received, rewritten, and dropped before they were put

	byName  map[string]*books // likewise, while there was a destination of that name
	current []*books          // of these, and total: those that go on
}

func newCarbonQueue() *carbonQueue { return &carbonQueue{byName: map[string]*books{}} }

// open opens the store. The queue must not be used before, but for its books.
func (q *carbonQueue) open(at store.Places, to []CarbonForward, log *slog.Logger) error {
	s, err := store.Open(at, destinations(to), log)
	if err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.store = s
	q.follow(to)
	return nil
}

// follow begins, or goes on with, the books of the destinations there are now.
func (q *carbonQueue) follow(to []CarbonForward) {
	q.current = []*books{&q.total}
	for _, f := range to {
		if q.byName[f.Name] == nil {
			q.byName[f.Name] = &books{}
		}
		q.current = append(q.current, q.byName[f.Name])
	}
}

// book books what was decided before lines are put, and clears t.
func (q *carbonQueue) book(received int, t *tally) {
	for _, b := range q.current {
		b.book(received, t)
	}
	*t = tally{}
}

// destinations is what the store needs to know of them.
func destinations(to []CarbonForward) (all []store.Destination) {
	for _, f := range to {
		d := store.Destination{Name: f.Name, Queue: int64(f.Queue), Spool: int64(f.Spool), Replay: int64(f.Replay)}
		for _, a := range f.To {
			d.To = append(d.To, a.String())
		}
		all = append(all, d)
	}
	return all
}

// redirect changes the destinations.
func (q *carbonQueue) redirect(to []CarbonForward) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for heir, from := range q.store.SetDestinations(destinations(to)) {
		q.byName[heir] = q.byName[from]
		delete(q.byName, from)
	}
	q.follow(to)
}

// accept returns how many bytes wait for an upstream that takes some, or the disk.
func (q *carbonQueue) accept(t *tally, in ...*batch) (waiting int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.book(t.received, t)
	for _, b := range in {
		if b.lines > 0 {
			waiting = max(waiting, q.store.Put(b.buf, b.lines, b.born, b.unnamed))
		}
		b.free()
	}
	return waiting
}

func (q *carbonQueue) namesLater() bool          { return false }
func (q *carbonQueue) isHolding() bool           { return q.store.Held.Any() }
func (q *carbonQueue) moreHeld() <-chan struct{} { return q.store.Held.More() }
func (q *carbonQueue) close()                    { q.store.CloseInput() }

func (q *carbonQueue) takeHeld() *batch {
	h, ok := q.store.Held.Take()
	if !ok {
		return nil
	}
	b := newBatch(h.Born, nil, true) // its own copy: the store's is not for the pool of batches
	b.buf, b.lines = append(b.buf, h.Data...), h.Lines()
	return b
}

func (q *carbonQueue) name(_ int, t *tally, in ...*batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.store.Held.Finish(func(put func(lines []byte, n int, born time.Time)) {
		for _, b := range in {
			put(b.buf, b.lines, b.born)
		}
		q.book(0, t)
	})
	for _, b := range in {
		b.free()
	}
}

// expire drops held lines that arrived before noNameBefore, unless that is zero:
// other lines keep.
func (q *carbonQueue) expire(_, noNameBefore time.Time) {
	if !noNameBefore.IsZero() {
		q.store.Held.Expire(noNameBefore)
	}
}

// accounts returns what is booked here, and the books of all destinations, of one instant: those
// that are gone behind the others.
func (q *carbonQueue) accounts() (total books, all []account) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.store == nil {
		return books{}, []account{{bound: Bound{Protocol: line.Carbon.String()}}}
	}
	for _, kept := range q.store.Books() {
		var b books
		if own := q.byName[kept.Destination]; own != nil { // else it was gone from the start
			b = *own
		}
		b.adopted, b.resent, b.queued, b.spooled = kept.Adopted, kept.Resent, kept.Queued, kept.Spooled
		b.forwarded = kept.Forwarded
		for why, n := range kept.Dropped {
			b.dropped[storeReasons[why]] += n
		}
		all = append(all, account{books: b, removed: kept.Removed, bound: Bound{
			Protocol: line.Carbon.String(), Destination: kept.Destination,
			Queue: kept.QueueBytes, QueueLimit: kept.QueueLimit,
			Spool: kept.SpoolBytes, SpoolLimit: kept.SpoolLimit, Oldest: kept.Oldest,
		}})
	}
	return q.total, all
}

// storeReasons are the store's, in our words.
var storeReasons = [store.NumReasons]reason{
	store.QueueFull: queueFull, store.SpoolFull: spoolFull, store.NoName: noName, store.Shutdown: shutdown,
}
