package outlet

import (
	"context"
	"math"
	"slices"
	"time"
)

const (
	// An attempt may take minAttempt, doubling with each failure to maxAttempt. The
	// next server is tried beside it after nextAfter.
	minAttempt = 3 * time.Second
	maxAttempt = 10 * time.Second
	nextAfter  = time.Second

	// A name may take maxResolve: for each domain of its search list, a resolver asks its second
	// server when the first has been silent for 5 s. The next address is tried beside it after
	// resolveTime.
	maxResolve  = time.Minute
	resolveTime = 2 * time.Second
)

// wholeList is as many addresses as a list may have.
const wholeList = math.MaxInt

// A search is for a server to connect to. What takes long, to look up a name or to
// connect, goes on beside what is tried next. It belongs to one goroutine.
type search struct {
	outlet *Outlet
	ctx    context.Context
	cancel context.CancelFunc
	config *Config // that todo is of
	n      int     // how many addresses of the list are tried

	todo     []*server        // the next first
	first    *server          // the last that was begun with, if that is waited for
	turn     <-chan time.Time // receives when that has taken long; nil: the next can be tried
	underWay map[*server]bool // attempts
	ended    chan attempt     // where they end
	found    *connection
}

// An attempt is what came of trying a server: a connection; of a name, its addresses.
type attempt struct {
	*server
	ats  []string
	conn *connection
	err  error
}

// search begins a search among the first n addresses. Its caller calls stop.
func (o *Outlet) search(ctx context.Context, n int) *search {
	ctx, cancel := context.WithCancel(ctx)
	r := &search{outlet: o, ctx: ctx, cancel: cancel, n: n, underWay: map[*server]bool{}, ended: make(chan attempt)}
	r.again()
	return r
}

// again begins with the first address, as they are configured now.
func (r *search) again() {
	r.config = r.outlet.config.Load()
	r.todo, r.first, r.turn = r.outlet.failover.list(r.n), nil, nil
}

// isTrying begins with the next server that does not rest, unless one is waited for. false: none is left.
func (r *search) isTrying() bool {
	for now := time.Now(); r.turn == nil && len(r.todo) > 0; {
		s := r.todo[0]
		r.todo = r.todo[1:]
		if limit, ok := r.outlet.failover.mayTry(now, s); ok && !r.underWay[s] {
			r.begin(s, limit)
		}
	}
	return r.turn != nil
}

func (r *search) begin(s *server, limit time.Duration) {
	r.first, r.turn = s, time.After(nextAfter)
	if s.isName() {
		r.turn = time.After(resolveTime)
	}
	r.underWay[s] = true
	cfg := r.config
	go func() {
		a := attempt{server: s}
		if s.isName() {
			a.ats, a.err = r.outlet.lookUp(r.ctx, s.entry.address)
		} else {
			a.conn, a.err = r.outlet.dialServer(r.ctx, cfg, s, limit)
		}
		r.ended <- a
	}()
}

// await waits until an attempt has ended or taken long, or something else happens; for d, unless
// that is 0.
func (r *search) await(d time.Duration, changed, more <-chan struct{}) {
	var late <-chan time.Time
	if d > 0 {
		late = time.After(d)
	}
	select {
	case a := <-r.ended:
		r.take(a)
	case <-r.turn:
		r.turn = nil
		r.outlet.failover.late(time.Now(), r.first)
	case <-late:
	case <-changed:
		r.again()
	case <-more:
	case <-r.ctx.Done():
	}
}

// take records how an attempt has ended.
func (r *search) take(a attempt) {
	f := r.outlet.failover
	delete(r.underWay, a.server)
	if a.server == r.first {
		r.turn = nil
	}
	switch {
	case a.err != nil && r.ctx.Err() != nil:
	case a.err != nil && a.isName():
		r.todo = slices.Concat(f.unresolved(time.Now(), a.entry, a.err), r.todo)
	case a.err != nil:
		f.unreachable(time.Now(), a.server, a.err)
	case a.isName():
		r.todo = slices.Concat(f.resolved(time.Now(), a.entry, a.ats), r.todo)
	case r.found == nil && r.ctx.Err() == nil && a.conn.config == r.config:
		r.found = a.conn
	default:
		a.conn.close()
	}
}

// next connects to the next server that does not rest, unless one is found already. nil: none is
// left, or ctx ended.
func (r *search) next() *connection {
	for r.found == nil && r.ctx.Err() == nil && (r.isTrying() || len(r.underWay) > 0) {
		r.await(0, nil, nil)
	}
	return r.found
}

// seek connects to the first server of the first n addresses that does not rest, and is not in use.
// nil: none does, or ctx ended.
func (o *Outlet) seek(ctx context.Context, n int) *connection {
	r := o.search(ctx, n)
	defer r.stop()
	return r.next()
}

// stop ends what is under way.
func (r *search) stop() {
	for r.cancel(); len(r.underWay) > 0; {
		r.take(<-r.ended)
	}
}
