package outlet

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// An attempt may take minAttempt, doubling with each failure to maxAttempt. The
	// next server is tried beside it after nextAfter.
	minAttempt = 3 * time.Second
	maxAttempt = 10 * time.Second
	nextAfter  = time.Second

	// A name may take maxResolve: a resolver asks its second server when the first has
	// been silent for 5 s. The next address is tried beside it after resolveTime.
	maxResolve  = 15 * time.Second
	resolveTime = 2 * time.Second
)

// A search is for a server to connect to. What takes long, to look up a name or to
// connect, goes on beside what is tried next. It belongs to one goroutine.
type search struct {
	outlet   *Outlet
	ctx      context.Context
	cancel   context.CancelFunc
	underWay int
	ended    chan attempt        // all that are under way end here
	answers  map[*entry]*attempt // of names; nil: it is under way
	found    *connection
}

// An attempt is to look up a name or to connect to a server, and what came of it.
type attempt struct {
	server *server // of a name: its entry's
	began  time.Time
	ats    []string
	conn   *connection
	err    error
}

// search begins one. Who does calls stop.
func (o *Outlet) search(ctx context.Context) *search {
	ctx, cancel := context.WithCancel(ctx)
	return &search{outlet: o, ctx: ctx, cancel: cancel, ended: make(chan attempt), answers: map[*entry]*attempt{}}
}

// dialFirst connects to the first server of the first n addresses that does not
// rest and takes the connection; nil: none does.
func (o *Outlet) dialFirst(ctx context.Context, n int) *connection {
	return o.dialExcept(ctx, n, nil)
}

// seekOther connects to the first server of the list other than one that does not rest;
// nil: none could be, or ctx ended.
func (o *Outlet) seekOther(ctx context.Context, than *server) *connection {
	return o.dialExcept(ctx, len(o.failover.list()), than)
}

// dialExcept is dialFirst, but for one server, which is passed over; nil: none is.
func (o *Outlet) dialExcept(ctx context.Context, n int, than *server) *connection {
	r := o.search(ctx)
	defer r.stop()
	for {
		r.sweep(n, than)
		if r.found != nil || r.underWay == 0 || ctx.Err() != nil {
			return r.found
		}
		select {
		case a := <-r.ended:
			r.take(a)
		case <-ctx.Done():
		}
	}
}

// sweep tries the servers of the first n addresses that don't rest, until one is found.
func (r *search) sweep(n int, than *server) {
	list := r.outlet.failover.list()
	for i, e := range list[:min(n, len(list))] {
		for _, s := range r.resolve(e) {
			if r.found != nil || r.ctx.Err() != nil {
				return
			}
			if s != than {
				r.dial(s, i)
			}
		}
	}
}

// resolve returns the servers of an address; none if it does not resolve, or not yet.
func (r *search) resolve(e *entry) []*server {
	f := r.outlet.failover
	if !e.address.isName() {
		return f.resolved(e, []string{e.address.at()})
	}
	if _, asked := r.answers[e]; !asked && r.found == nil {
		if _, ok := f.try(time.Now(), &e.name); !ok {
			return nil
		}
		r.answers[e] = nil
		r.start(&e.name, func(a *attempt) { a.ats, a.err = r.outlet.lookUp(r.ctx, e.address) })
		if r.await(&e.name, resolveTime); r.answers[e] == nil && r.ctx.Err() == nil {
			f.late(time.Now(), e, fmt.Errorf("look up upstream %s: no answer within %v", e.address, resolveTime))
		}
	}
	a := r.answers[e]
	if a == nil {
		return nil
	}
	delete(r.answers, e)
	if a.err != nil {
		return nil
	}
	return f.resolved(e, a.ats)
}

// dial tries to connect to s, unless that rests.
func (r *search) dial(s *server, index int) {
	limit, ok := r.outlet.failover.try(time.Now(), s)
	if !ok {
		return
	}
	r.start(s, func(a *attempt) { a.conn, a.err = r.outlet.dialServer(r.ctx, s, index, limit) })
	r.await(s, nextAfter)
}

func (r *search) start(s *server, do func(a *attempt)) {
	r.underWay++
	go func() {
		a := attempt{server: s, began: time.Now()}
		do(&a)
		r.ended <- a
	}()
}

// await returns when the attempt at s has ended, or one has found a server, but after d
// at the latest.
func (r *search) await(s *server, d time.Duration) {
	late := time.NewTimer(d)
	defer late.Stop()
	for r.found == nil {
		select {
		case a := <-r.ended:
			if r.take(a); a.server == s {
				return
			}
		case <-late.C:
			return
		case <-r.ctx.Done():
			return
		}
	}
}

// take takes note of an attempt that has ended.
func (r *search) take(a attempt) {
	r.underWay--
	f := r.outlet.failover
	f.tried(a.server)
	e := a.server.entry
	isName := a.server == &e.name
	if isName {
		r.answers[e] = &a
	}
	switch {
	case a.conn != nil && r.found == nil && r.ctx.Err() == nil:
		r.found = a.conn
	case a.conn != nil:
		a.conn.close()
	case a.err == nil || r.ctx.Err() != nil:
	case isName:
		f.unresolved(time.Now(), e, a.err)
	default:
		f.unreachable(time.Now(), a.server, a.err)
	}
}

// errSlow says that a server needed too long.
var errSlow = errors.New("no connection yet, when another server took one")

// stop ends what is under way.
func (r *search) stop() {
	now, over := time.Now(), r.found != nil && r.ctx.Err() == nil
	for r.cancel(); r.underWay > 0; {
		a := <-r.ended
		if r.take(a); over && a.conn == nil && a.server.at != "" && now.Sub(a.began) >= nextAfter {
			r.outlet.failover.unreachable(now, a.server, fmt.Errorf("dial upstream %s: %w", a.server.entry.address, errSlow))
		}
	}
}
