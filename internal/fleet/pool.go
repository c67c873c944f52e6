// Package fleet is a pool of names as pages show it: who holds what, who waits, and who
// held what in the last days. However many ask, and however often, etcd is queried at
// most once in some seconds, and only while somebody asks.
//
//	pool.go  Pool: when etcd is asked, and for what
//	past.go  what is known of a name's past
//	view.go  what pages show: a View
//
// Not promised: to be complete. A name that was held for less than a few seconds between
// two requests may be seen minutes later, and of more than maxTenures the last ones are known.
package fleet

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// MaxOthers is how many names that the list lacks a daemon keeps.
const MaxOthers = 1000

// How often etcd is asked, at most.
const (
	Fresh       = 10 * time.Second // for a page
	FreshCounts = time.Minute      // for a metric
)

// The bounds of what is read and kept.
const (
	Kept       = 7 * 24 * time.Hour // of the past, or as much of it as fits
	maxTenures = 40_000             // some 5 MiB
	leastKept  = time.Hour          // of the past: what has no end stays, however much that is
	firstReads = 20                 // requests for the first view; each later one is one
	lateEnds   = time.Minute        // within which the end of a tenure is on record
	lookAgain  = 5 * time.Minute    // at names at which nothing seemed to change
)

// A Look asks etcd for a pool at a glance, with some of its past. It bounds its time itself.
type Look func(ctx context.Context, asks []pool.AskPast) (pool.Glance, error)

// A Pool knows a pool. Any goroutine may ask it; Run's asks etcd.
type Pool struct {
	names []string
	most  int // of others
	look  Look
	wake  chan struct{} // cap 1

	mu      sync.Mutex    // of these:
	changed chan struct{} // closed when the attempt under way has ended
	busy    bool
	whole   bool      // a view is wanted, with the past
	asked   time.Time // when the last attempt began
	viewed  time.Time // when the last one for a view did
	view    *View     // nil: none yet

	past    map[string]*past // this, and what follows, is of Run's goroutine alone, or of who calls Refresh
	others  []string         // names with a past that the list lacks
	gaps    []pool.AskPast   // between the names that are known, where others may be
	tenures int              // that are kept
	keeps   time.Duration    // how much of the past
	begun   time.Time        // from when on the past is known; zero: it was not asked for yet
	allDue  time.Time        // when all names are looked at again
	hasPast bool             // there was a view with it
}

// New returns a pool whose list is names; of names that the list lacks, it keeps so many. It asks
// nothing.
func New(names []string, others int, look Look) *Pool {
	p := &Pool{names: names, most: others, look: look, wake: make(chan struct{}, 1), changed: make(chan struct{}), past: map[string]*past{}, keeps: Kept}
	for _, name := range names {
		p.past[name] = &past{}
	}
	return p
}

// View returns the pool, with its past; no older than Fresh, if etcd answers before ctx
// ends. It is nil while nothing is known.
func (p *Pool) View(ctx context.Context) *View { return p.await(ctx, Fresh, true) }

// Counts returns the pool for a metric, likewise: no older than FreshCounts, and its past
// may be older.
func (p *Pool) Counts(ctx context.Context) *View { return p.await(ctx, FreshCounts, false) }

// Known returns the last view at once, and has etcd asked if it is too old for a metric.
func (p *Pool) Known() *View {
	view, _ := p.ask(FreshCounts, false)
	return view
}

func (p *Pool) await(ctx context.Context, fresh time.Duration, whole bool) *View {
	for {
		view, ended := p.ask(fresh, whole)
		if ended == nil {
			return view
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return view
		}
	}
}

// ask returns what is known and, if that is too old, has etcd asked: ended is closed then.
func (p *Pool) ask(fresh time.Duration, whole bool) (view *View, ended <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.asked
	if whole {
		last = p.viewed
	}
	if !p.busy && !last.IsZero() && time.Since(last) < fresh {
		return p.view, nil
	}
	p.whole = p.whole || whole
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return p.view, p.changed
}

// Refresh asks etcd and returns the pool, with its past; Err says why it could not. It is for callers
// without Run, which need to know at once since when a name has been held.
func (p *Pool) Refresh(ctx context.Context) *View {
	again := p.hasPast
	view := p.attempt(ctx, true)
	if again && view.Err == nil { // that was who holds what; the next one reads the records of what has changed
		view = p.attempt(ctx, true)
	}
	p.end(view)
	return view
}

// Run asks etcd whenever somebody wants to know, until ctx ends.
func (p *Pool) Run(ctx context.Context) {
	for {
		select {
		case <-p.wake:
		case <-ctx.Done():
			return
		}
		if whole, due := p.begin(); due {
			p.end(p.attempt(ctx, whole))
		}
	}
}

// begin begins an attempt, if one is due.
func (p *Pool) begin() (whole, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	whole = p.whole && now.Sub(p.viewed) >= Fresh
	if !whole && now.Sub(p.asked) < FreshCounts {
		return false, false
	}
	p.busy, p.whole, p.asked = true, false, now
	if whole {
		p.viewed = now
	}
	return whole, true
}

func (p *Pool) end(view *View) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy, p.view = false, view
	close(p.changed)
	p.changed = make(chan struct{})
}

// attempt asks etcd: once, or for the first view as often as needed, up to a bound.
func (p *Pool) attempt(ctx context.Context, whole bool) *View {
	now := time.Now()
	reads := 1
	if whole && !p.hasPast {
		p.begun, reads, p.gaps = now.Add(-p.keeps), firstReads, gapsBetween(p.names)
	}
	var g pool.Glance
	for n := range reads {
		var asks []pool.AskPast
		if whole {
			if asks = p.work(now); n > 0 && len(asks) == 0 {
				break
			}
		}
		next, err := p.look(ctx, asks)
		if err != nil {
			return p.failed(now, err)
		}
		g = next
		p.stand(g.Held, now)
		p.learn(asks, g.Past)
		for p.tenures >= maxTenures && p.keeps > leastKept {
			p.keeps /= 2
			p.forget(now)
		}
	}
	p.hasPast = p.hasPast || whole
	p.forget(now)
	return p.newView(g, now)
}

// learn takes the answers to asks.
func (p *Pool) learn(asks []pool.AskPast, answers []pool.Past) {
	for i, answer := range answers {
		switch ask := asks[i]; {
		case ask.Name != "":
			p.tenures += p.past[ask.Name].learn(ask, answer)
		case answer.Name == "": // the gap is empty
			p.gaps = p.gaps[1:]
		default:
			p.meet(answer.Name)
			ask.After = answer.Name
			p.gaps = append(p.gaps[1:], ask)
		}
	}
}

// meet takes note of a name that the list may lack.
func (p *Pool) meet(name string) {
	if p.past[name] == nil && len(p.others) < p.most {
		p.past[name] = &past{}
		p.others = append(p.others, name)
	}
}

// gapsBetween returns what to ask for names that the list lacks.
func gapsBetween(names []string) (gaps []pool.AskPast) {
	after := ""
	for _, name := range slices.SortedFunc(slices.Values(names), pool.CompareNames) {
		gaps = append(gaps, pool.AskPast{After: after, Until: name})
		after = name
	}
	return append(gaps, pool.AskPast{After: after})
}

// failed returns the view as it was, with what is wrong.
func (p *Pool) failed(now time.Time, err error) *View {
	view := View{Names: len(p.names)}
	if p.view != nil { // only this goroutine changes it
		view = *p.view
	}
	if view.Err == nil {
		view.ErrSince = now
	}
	view.Err = err
	return &view
}

// stand takes note of who holds the names.
func (p *Pool) stand(held map[string]pool.Standing, now time.Time) {
	for _, name := range slices.Sorted(maps.Keys(held)) {
		p.meet(name)
	}
	for name, its := range p.past {
		its.stand(held[name], now)
	}
}

// order returns the names that are known: those of the list first.
func (p *Pool) order() []string { return slices.Concat(p.names, p.others) }

// work returns what to ask for next: the last days of all names; the last tenure before these,
// where they don't tell who held the name a day ago; what may have changed; and the gaps in which
// there may be names that the list lacks.
func (p *Pool) work(now time.Time) (asks []pool.AskPast) {
	if now.After(p.allDue) {
		p.allDue = now.Add(lookAgain)
		for _, its := range p.past {
			its.again = true
		}
	}
	asked := map[string]bool{}
	for _, stage := range []func(*past) bool{
		func(its *past) bool { return !its.read },
		func(its *past) bool { return its.lacksEarlier(now.Add(-24 * time.Hour)) },
		func(its *past) bool { return p.hasPast && (its.again || now.Before(its.until)) },
	} {
		for _, name := range p.order() {
			if its := p.past[name]; !asked[name] && stage(its) && len(asks) < pool.AsksPerGlance && p.tenures < maxTenures {
				asks, asked[name], its.again = append(asks, its.ask(name, p.begun)), true, false
			}
		}
	}
	return append(asks, p.gaps[:min(len(p.gaps), pool.AsksPerGlance-len(asks))]...)
}

// forget drops what is too old.
func (p *Pool) forget(now time.Time) {
	if p.begun.IsZero() { // no past is kept
		return
	}
	p.begun = now.Add(-p.keeps)
	for _, past := range p.past {
		p.tenures -= past.forget(p.begun)
	}
	p.others = slices.DeleteFunc(p.others, func(name string) bool {
		its := p.past[name]
		gone := its.read && its.now.Revision == 0 && len(its.records) == 0
		if gone {
			delete(p.past, name)
		}
		return gone
	})
}
