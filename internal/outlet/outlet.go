package outlet

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/pulse"
)

// An Outlet sends what a source has to the first server of its list that works. One
// goroutine, Run's, owns the connection and talks to the source.
//
//	       connect                     session ends
//	down ───────────→ session ────────────────────────→ down
//	 │ drained           │ drained: finish
//	 └──────→ end ←──────┘
type Outlet struct {
	options  Options
	failover *failover

	config  atomic.Pointer[Config] // the latest; Run adopts it
	changed chan struct{}          // cap 1: config is new

	pulse  pulse.Pulse    // of Run
	parked sync.WaitGroup // connections that were left, and end later
	spares []*connection  // to other servers; owned by Run, and during a session by its scout
}

// New returns an outlet. It starts nothing.
func New(cfg Config, opt Options) *Outlet {
	if opt.Resolver == nil {
		opt.Resolver = net.DefaultResolver
	}
	if opt.Follow == nil {
		opt.Follow = func() bool { return false }
	}
	o := &Outlet{
		options:  opt,
		failover: &failover{log: opt.Log, lost: opt.Source.Lost},
		changed:  make(chan struct{}, 1),
	}
	o.config.Store(&cfg)
	o.failover.reset(time.Now(), &cfg)
	return o
}

// Configure makes Run go on with cfg. If it differs, the session ends in order, and
// what waits goes to the new servers.
func (o *Outlet) Configure(cfg Config) {
	if cfg.equal(o.config.Load()) {
		return
	}
	o.failover.reset(time.Now(), &cfg)
	o.config.Store(&cfg) // last: who has it finds its list, see search.again
	select {
	case o.changed <- struct{}{}:
	default:
	}
}

// Status describes the addresses, in the order of the list.
func (o *Outlet) Status() []Status { return o.failover.status() }

// Pulse is that of Run, which waits for the others that it starts.
func (o *Outlet) Pulse() *pulse.Pulse { return &o.pulse }

// IsUp says whether one of the addresses works.
func (o *Outlet) IsUp() bool {
	return slices.ContainsFunc(o.Status(), func(s Status) bool { return s.Up })
}

// An ours is a reason of our own to end a session, though its server works.
type ours string

func (why ours) Error() string { return string(why) }

const (
	errMoved   ours = "other upstreams are configured"
	errBetter  ours = "an earlier upstream is back"
	errTooOld  ours = "the connection has reached its max_age"
	errRenamed ours = "the upstream's name has another address"
	errDoubted ours = "the upstream may read nothing"
)

func isOurs(why error) bool {
	_, is := errors.AsType[ours](why)
	return is || errors.Is(why, ErrDrained)
}

// Run sends until the source is drained, or ctx ends.
func (o *Outlet) Run(ctx context.Context) {
	defer o.pulse.Rest()
	ctx, cancel := context.WithCancel(ctx)
	defer o.parked.Wait()
	defer cancel()
	defer o.dropSpares()
	for c := o.connect(ctx); c != nil; c = o.connect(ctx) {
		o.run(ctx, c)
	}
}

// run runs a session on c, which it takes, and records how it ended.
func (o *Outlet) run(ctx context.Context, c *connection) {
	lived, why := o.session(ctx, c)
	if ctx.Err() == nil && !isOurs(why) {
		o.failover.failed(time.Now(), c, lived, why)
		return
	}
	o.failover.left(time.Now())
	if errors.Is(why, errDoubted) { // it has ended the connection in order: so it does read
		o.failover.asked(c.server, true, time.Now().Add(patientInterval))
	}
	if !errors.Is(why, errBetter) {
		o.dropSpares()
	}
}

// connect returns one of the connections that are held, or connects to the first server that can be
// used, and tries until one can. nil: nothing is left to send, or ctx has ended.
func (o *Outlet) connect(ctx context.Context) *connection {
	if c := o.spare(ctx); c != nil {
		return c
	}
	r := o.search(ctx, wholeList)
	defer r.stop()
	for r.found == nil && ctx.Err() == nil {
		now := time.Now()
		expire, err := o.options.Source.Expire(now)
		if err != nil {
			return nil
		}
		var wait time.Duration
		if !r.isTrying() {
			if wait = o.failover.next(now, r.underWay); wait == 0 {
				r.again()
				continue
			}
		}
		o.pulse.Rest()
		r.await(soonest(max(wait, 0), expire), o.changed, o.options.Source.More())
		o.pulse.Work()
	}
	return r.found
}
