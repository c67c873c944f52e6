package proxy

import (
	"context"
	"log/slog"
	"path/filepath"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/membership"
)

// A pointQueue counts StatsD's lines, slot by slot, and puts the points that they become
// into Carbon's queue. A line is forwarded when the points of its slot are there.
type pointQueue struct {
	naming *naming
	carbon *carbonQueue
	log    *slog.Logger
	more   chan struct{} // cap 1: run is to look again

	config atomic.Pointer[aggregate.Config]

	flushing sync.Mutex // before mu: of who ends a slot, or makes points
	ingest   *ingest    // of the points
	buf      []byte
	due      time.Time     // when the next part of the sealed slot is to be flushed
	pace     time.Duration // between two parts
	closed   bool
	troubled time.Time // when the files last were in trouble; zero: not of late

	mu    sync.Mutex            // readers wait for it: no points are made meanwhile
	sums  *aggregate.Aggregator // with open, it goes on with what there was
	state string                // a directory, for the next process; "": there is none
	claim *membership.Claim     // the last that was good
	books books
}

// flushStep is how many series are flushed at once: readers wait for no more.
const flushStep = 256

// A flush begins within a sixth of the interval, and takes another one, but neither is longer
// than this: no base is begun before its end, and the lines file grows.
const longestPart = 10 * time.Second

// untroubled is how long files must have worked until that is said.
const untroubled = time.Minute

func newPointQueue(p *Proxy) *pointQueue {
	q := &pointQueue{naming: p.naming, carbon: p.carbon, log: p.log, ingest: newIngest(line.Carbon, p.carbon, p.bad), more: make(chan struct{}, 1)}
	cfg := p.cfg.counting()
	q.config.Store(&cfg)
	q.sums = aggregate.New(cfg)
	q.books.forwarded = map[string]uint64{"carbon:": 0}
	return q
}

// aggregateDirs are where what is counted survives, in the directories of the store.
func aggregateDirs(memory, state string) (dirs []string) {
	for _, dir := range []string{memory, state} {
		if dir != "" {
			dirs = append(dirs, filepath.Join(dir, "aggregate"))
		}
	}
	return dirs
}

func (q *pointQueue) open(cfg Config, dirs []string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	sums, err := aggregate.Open(cfg.counting(), dirs, time.Now())
	if err != nil {
		return err
	}
	q.sums = sums
	if len(dirs) > 0 {
		q.state = dirs[len(dirs)-1]
	}
	q.books.queued = sums.Lines()
	q.books.adopted = uint64(q.books.queued + sums.Lost())
	if q.books.dropped[queueFull] = uint64(sums.Lost()); sums.Lost() > 0 {
		q.log.Error("lines that an earlier process had counted are lost", "lines", sums.Lost())
	}
	return nil
}

// run flushes slots until ctx ends, or all has left.
func (q *pointQueue) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changed := q.naming.names.Changed()
		wait, closed := q.step(time.Now())
		if closed {
			return
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
func (q *pointQueue) step(now time.Time) (wait time.Duration, closed bool) {
	q.flushing.Lock()
	defer q.flushing.Unlock()
	if q.closed {
		return 0, true
	}
	q.turn(now)
	q.mu.Lock()
	err, ends := q.sums.Trouble(), q.sums.Ends()
	q.mu.Unlock()
	q.tell(err, now)
	if !q.sums.IsFlushing() {
		return max(ends.Sub(now), time.Millisecond), false
	}
	if wait = q.due.Sub(now); wait > 0 {
		return wait, false
	}
	q.flush()
	q.due = q.due.Add(q.pace)
	return 0, false
}

// tell says when the files begin to fail, and when they have worked for a while again: on
// a full disk they may fail in each slot anew. q.flushing is held.
func (q *pointQueue) tell(trouble error, now time.Time) {
	was := q.troubled
	switch {
	case trouble != nil:
		q.troubled = now
		if was.IsZero() {
			q.log.Error("files of what is counted fail: a kill may lose it", "err", trouble)
		}
	case !was.IsZero() && now.Sub(was) > untroubled:
		q.troubled = time.Time{}
		q.log.Info("files of what is counted work again")
	}
}

// look returns the claim, whether its tenure begins, and whether turn is to do anything.
// q.mu is held.
func (q *pointQueue) look(now time.Time) (claim *membership.Claim, begins, due bool) {
	claim, ok := q.naming.names.Current()
	q.sums.SetNamed(claim != nil, now)
	begins = ok && claim != q.claim
	return claim, begins, begins || q.sums.IsOver(now)
}

// turn ends the open slot where that is over, or a tenure begins. q.flushing is held.
func (q *pointQueue) turn(now time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	claim, begins, due := q.look(now)
	if !due {
		return
	}
	q.mu.Unlock()
	q.flushAll()
	q.mu.Lock()
	if begins {
		q.claim = claim
		q.sums.Hold(time.Now(), claim.Tenure()) // which is behind its beginning, as now may not be
	}
	if q.sums.IsOver(now) && !q.sums.IsFlushing() { // else in the next turn
		slot, series := q.sums.Seal(now)
		part := min(time.Duration(slot.Interval)*time.Second/6, longestPart)
		q.due, q.pace = now.Add(q.naming.spread(claim, part)), part/time.Duration(1+series/flushStep)
	}
	notify(q.more)
}

// spread returns when, within limit, this host is to flush: by the place of its name.
func (n *naming) spread(claim *membership.Claim, limit time.Duration) time.Duration {
	names := n.rules.Load().nameless.rules.Names
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
	q.books.forwarded["carbon:"] += uint64(lines)
	q.books.queued -= lines
}

// count counts what was read at a moment in the slot that is open.
func (q *pointQueue) count(r *aggregate.Reading, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, _, due := q.look(at); due; _, _, due = q.look(at) {
		q.mu.Unlock()
		q.flushing.Lock()
		q.turn(at)
		q.flushing.Unlock()
		q.mu.Lock()
	}
	lines := r.Len()
	counted := q.sums.Add(r)
	q.books.received += uint64(lines)
	q.books.rewritten += uint64(lines)
	q.books.queued += counted
	q.books.dropped[seriesFull] += uint64(lines - counted)
}

// accept books what a read brought beside what was counted.
func (q *pointQueue) accept(t *tally, in ...*batch) (waiting int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.books.book(t.received, t)
	*t = tally{}
	for _, b := range in {
		if b.unnamed { // under a name of the list, which may be ours or not
			q.books.dropped[noName] += uint64(b.lines)
		}
		b.free()
	}
	return 0
}

// configure makes cfg hold from a new slot on.
func (q *pointQueue) configure(to Config) {
	cfg := to.counting()
	if reflect.DeepEqual(cfg, *q.config.Load()) {
		return
	}
	q.flushing.Lock()
	defer q.flushing.Unlock()
	q.finish(false)
	q.mu.Lock()
	defer q.mu.Unlock()
	q.sums.Reconfigure(cfg, time.Now())
	q.config.Store(&cfg)
	notify(q.more)
}

// close puts the points of all that was counted into Carbon's queue.
func (q *pointQueue) close() {
	q.flushing.Lock()
	defer q.flushing.Unlock()
	q.finish(q.state == "") // else the rest is for the next process
	q.closed = true
	notify(q.more)
}

// finish ends the open slot, and puts its points, too, into Carbon's queue: if it has
// begun, or come what may. One that has not may be another host's when it begins.
// q.flushing is held.
func (q *pointQueue) finish(anyhow bool) {
	now := time.Now()
	q.turn(now)
	q.flushAll()
	q.mu.Lock()
	if anyhow || q.sums.HasBegun(now) {
		q.sums.Seal(now)
	}
	q.mu.Unlock()
	q.flushAll()
}

// end keeps the gauges, and which slots there were, for the next process.
func (q *pointQueue) end() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if err := q.sums.Close(q.state); err != nil {
		q.log.Error("gauges, and what was counted in the open slot, may not be found by the next start", "lines", q.books.queued, "err", err)
	} else if q.books.queued > 0 {
		q.log.Info("what was counted before the first slot of this name is left for the next start", "lines", q.books.queued)
	}
}

func (q *pointQueue) account() account {
	q.mu.Lock()
	defer q.mu.Unlock()
	stats := q.sums.Stats()
	a := newAccount(q.books, stats.Bytes, int64(q.config.Load().Memory))
	a.series = &stats
	return a
}

func (q *pointQueue) destinations() []*destination { return nil }

// upstreams is "carbon:", which is up while one of Carbon's is.
func (q *pointQueue) upstreams(carbon []UpstreamStatus) []UpstreamStatus {
	u := UpstreamStatus{Reason: "no Carbon upstream is up"}
	for i, c := range carbon {
		if i == 0 || c.Up && !u.Up {
			u = c
		}
	}
	u.Protocol, u.Destination, u.Address = line.StatsD.String(), "", "carbon:"
	return []UpstreamStatus{u}
}

// Nothing waits here for a name: points do, in Carbon's queue.
func (q *pointQueue) namesLater() bool            { return true }
func (q *pointQueue) isHolding() bool             { return false }
func (q *pointQueue) takeHeld() *batch            { return nil }
func (q *pointQueue) name(int, *tally, ...*batch) {}
func (q *pointQueue) expire(time.Time, time.Time) {}
func (q *pointQueue) moreHeld() <-chan struct{}   { return nil }
