package proxy

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/membership"
)

// A pointQueue takes the place of StatsD's queue and upstream where lines become points
// here: it counts them, slot by slot, and puts the points into Carbon's queue. A line is
// forwarded when the points of its slot are there.
type pointQueue struct {
	naming *naming
	carbon *carbonQueue
	bad    *badLines
	more   chan struct{} // cap 1: run is to look again

	memory atomic.Int64 // bytes that series may take

	flushing sync.Mutex // before mu: of who ends a slot, or makes points
	ingest   *ingest    // of the points
	buf      []byte
	due      time.Time     // when the next part of the sealed slot is to be flushed
	pace     time.Duration // between two parts
	closed   bool

	mu    sync.Mutex            // readers wait for it: no points are made meanwhile
	sums  *aggregate.Aggregator // nil before open
	claim *membership.Claim     // the last that was good
	books books
}

// flushStep is how many series are flushed at once: readers wait for no more.
const flushStep = 256

func newPointQueue(n *naming, carbon *carbonQueue, bad *badLines) *pointQueue {
	q := &pointQueue{naming: n, carbon: carbon, bad: bad, ingest: newIngest(line.Carbon, bad), more: make(chan struct{}, 1)}
	q.books.forwarded = []forwarded{{upstream: "carbon:"}}
	return q
}

// open goes on with what the last process had counted, in state or in memory, the
// directories of the store.
func (q *pointQueue) open(cfg aggregate.Config, memory, state string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	sums, err := aggregate.Open(cfg, pointDirs(memory, state), time.Now())
	if err != nil {
		return err
	}
	q.sums = sums
	q.memory.Store(int64(cfg.Memory))
	q.books.queued = sums.Lines()
	q.books.adopted = uint64(q.books.queued)
	return nil
}

// pointDirs are those of what is counted, in the directories of the store.
func pointDirs(memory, state string) (dirs []string) {
	for _, dir := range []string{memory, state} {
		if dir != "" {
			dirs = append(dirs, filepath.Join(dir, "aggregate"))
		}
	}
	return dirs
}

// run flushes slots until ctx ends.
func (q *pointQueue) run(ctx context.Context, trouble func(error)) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := q.naming.names.Changed()
		wait, err := q.step(time.Now())
		if err != nil {
			trouble(err)
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-changed:
		case <-q.more:
		case <-ctx.Done():
			return
		}
	}
}

// step flushes some of what is due, and returns when there is more to do.
func (q *pointQueue) step(now time.Time) (wait time.Duration, err error) {
	q.flushing.Lock()
	defer q.flushing.Unlock()
	if q.closed {
		return time.Hour, nil
	}
	q.turn(now)
	q.mu.Lock()
	err = q.sums.Trouble()
	ends := q.sums.Ends()
	q.mu.Unlock()
	if !q.sums.IsFlushing() {
		return max(ends.Sub(now), time.Millisecond), err
	}
	if wait = q.due.Sub(now); wait > 0 {
		return wait, err
	}
	q.flush()
	q.due = q.due.Add(q.pace)
	return 0, err
}

// isTurned says whether turn has nothing to do. q.mu is held.
func (q *pointQueue) isTurned(now time.Time) bool {
	claim, ok := q.naming.names.Current()
	q.sums.SetNamed(claim != nil)
	return (!ok || claim == q.claim) && !q.sums.IsOver(now)
}

// turn ends the open slot where that is over, or a tenure begins. q.flushing is held.
func (q *pointQueue) turn(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.isTurned(now) {
		return
	}
	q.mu.Unlock()
	q.flushAll()
	q.mu.Lock()
	claim, ok := q.naming.names.Current()
	q.sums.SetNamed(claim != nil)
	if ok && claim != q.claim {
		q.claim = claim
		if tenure := tenureOf(claim); !q.sums.Holds(tenure) {
			q.sums.Hold(now, tenure)
		}
	}
	if q.sums.IsOver(now) && !q.sums.IsFlushing() { // else in the next turn
		q.sums.Seal(now)
		slot, series := q.sums.Sealed()
		part := time.Duration(slot.Interval) * time.Second / 6
		q.due, q.pace = now.Add(q.naming.spread(claim, part)), part/time.Duration(1+series/flushStep)
	}
	notify(q.more)
}

// tenureOf tells a tenure from all others, in the next process, too.
func tenureOf(c *membership.Claim) string {
	return fmt.Sprintf("%s %x %x", c.Name(), c.Revision(), int64(c.LeaseID()))
}

// spread returns when, within limit, this host is to flush: by the place of its name.
func (n *naming) spread(claim *membership.Claim, limit time.Duration) time.Duration {
	names := n.rules.Load().rules.Names
	if claim == nil || len(names) == 0 {
		return 0
	}
	return limit * time.Duration(max(slices.Index(names, claim.Name()), 0)) / time.Duration(len(names))
}

// flushAll ends the flush. q.flushing is held.
func (q *pointQueue) flushAll() {
	for q.sums.IsFlushing() {
		q.flush()
	}
}

// flush puts the points of some series into Carbon's queue: only behind the last of them
// is the slot forgotten. q.flushing is held.
func (q *pointQueue) flush() {
	q.mu.Lock()
	more := q.sums.Take(flushStep)
	q.mu.Unlock()
	q.buf = q.sums.Points(q.buf[:0])
	q.ingest.begin(time.Now(), q.naming.current(q.carbon))
	q.ingest.points(q.buf)
	q.carbon.accept(&q.ingest.tally, q.ingest.end()...)
	if more {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	lines := q.sums.Flushed()
	q.books.forwarded[0].lines += uint64(lines)
	q.books.queued -= lines
}

func (q *pointQueue) accept(t *tally, in ...*batch) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for !q.isTurned(in[0].born) {
		q.mu.Unlock()
		q.flushing.Lock()
		q.turn(in[0].born)
		q.flushing.Unlock()
		q.mu.Lock()
	}
	q.books.received += uint64(t.received)
	q.books.book(t)
	for _, b := range in {
		switch {
		case b.unnamed: // under a name of the list, which may be ours or not
			q.books.dropped[noName] += uint64(b.lines)
		case b.lines > 0:
			q.sums.Log(b.buf)
			q.count(b)
		}
		b.free()
	}
}

// count counts the lines of b. q.mu is held.
func (q *pointQueue) count(b *batch) {
	q.books.queued += q.sums.Add(b.buf, func(ln []byte, result aggregate.Reason) {
		why := aggregateReasons[result]
		q.books.dropped[why]++
		if why == badPath {
			from := []byte(q.naming.rules.Load().rules.From) // as most clients write it
			q.bad.add(b.born, line.StatsD, why, "", bytes.Replace(ln, []byte(line.Mark), from, 1))
		}
	})
}

// aggregateReasons are the aggregator's, in our words.
var aggregateReasons = [aggregate.NumReasons]reason{
	aggregate.NoPoint: noPoint, aggregate.BadValue: badValue, aggregate.BadPath: badPath, aggregate.SeriesFull: seriesFull,
}

// reconfigure makes cfg hold from a new slot on.
func (q *pointQueue) reconfigure(cfg aggregate.Config) {
	q.flushing.Lock()
	defer q.flushing.Unlock()
	q.finish()
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sums.Reconfigure(cfg, time.Now())
	q.memory.Store(int64(cfg.Memory))
	notify(q.more)
}

// close puts the points of all that was counted into Carbon's queue.
func (q *pointQueue) close() {
	q.flushing.Lock()
	defer q.flushing.Unlock()
	q.finish()
	q.closed = true
}

// finish ends the open slot, and puts its points, too, into Carbon's queue. q.flushing
// is held.
func (q *pointQueue) finish() {
	now := time.Now()
	q.turn(now)
	q.flushAll()
	q.mu.Lock()
	q.sums.Seal(now)
	q.mu.Unlock()
	q.flushAll()
}

// leave keeps what the next process goes on with, in state, the directory of the store.
// The queue is closed.
func (q *pointQueue) leave(state string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if state == "" {
		return nil
	}
	return q.sums.Close(filepath.Join(state, "aggregate"))
}

// stats returns numbers for people.
func (q *pointQueue) stats() aggregate.Stats {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.sums == nil {
		return aggregate.Stats{}
	}
	return q.sums.Stats()
}

// limit returns how many bytes it may take.
func (q *pointQueue) limit() int64 { return q.memory.Load() }

func (q *pointQueue) snapshot() (books, int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	b := q.books
	b.forwarded = slices.Clone(b.forwarded)
	if q.sums == nil {
		return b, 0
	}
	return b, int(q.sums.Stats().Bytes)
}

// Nothing waits here for a name: points do, in Carbon's queue.
func (q *pointQueue) namesLater() bool            { return true }
func (q *pointQueue) isHolding() bool             { return false }
func (q *pointQueue) takeHeld() *batch            { return nil }
func (q *pointQueue) name(int, *tally, ...*batch) {}
func (q *pointQueue) expire(time.Time, time.Time) {}
func (q *pointQueue) wake()                       {}
func (q *pointQueue) moreHeld() <-chan struct{}   { return nil }
