package proxy

import (
	"context"
	"log/slog"
	"maps"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// A statsdSink is where StatsD's lines end: they are sent to servers (statsdForwarder),
// or counted here, and become points of Carbon (pointQueue).
type statsdSink interface {
	queue

	// open goes on with what an earlier process left in dirs.
	open(cfg Config, dirs []string) error

	// run does its work until ctx ends, or until it is closed, and all has left.
	run(ctx context.Context)

	// configure makes cfg hold from now on.
	configure(cfg Config)

	// end drops what has not left, or keeps it for the next process. run has returned.
	end()

	// account returns the books, and how full it is.
	account() account

	// destinations are those that have servers of its own.
	destinations() []*destination

	// upstreams are those which it has beside.
	upstreams(carbon []UpstreamStatus) []UpstreamStatus
}

// newAccount returns a copy of StatsD's books, with how much its queue has, and may have.
func newAccount(b books, bytes, limit int64) account {
	b.forwarded = maps.Clone(b.forwarded)
	return account{books: b, bound: Bound{Protocol: line.StatsD.String(), Queue: bytes, QueueLimit: limit}}
}

// A statsdForwarder sends StatsD to servers.
type statsdForwarder struct {
	*statsdQueue
	to   *destination
	left *pointQueue // opened, if an earlier process has counted
	log  *slog.Logger
}

func newStatsDForwarder(p *Proxy) *statsdForwarder {
	cfg := p.cfg.Forward.StatsD
	f := &statsdForwarder{statsdQueue: newStatsDQueue(int64(cfg.Queue)), left: newPointQueue(p), log: p.log}
	f.know(cfg.To)
	source := &statsdSource{queue: f.statsdQueue}
	f.to = &destination{protocol: line.StatsD, Outlet: outlet.New(cfg.outlet(), p.outletOptions(line.StatsD, "", source))}
	return f
}

// open sends the points of what a kill has left: nothing is counted here any more.
func (f *statsdForwarder) open(cfg Config, dirs []string) error {
	if !aggregate.IsLeft(dirs) {
		return nil
	}
	if err := f.left.open(cfg, dirs); err != nil {
		return err
	}
	if f.left.books.adopted > 0 {
		f.left.finish(true)
		f.takeOver(f.left.books)
	}
	f.left.end()
	return nil
}

func (f *statsdForwarder) run(ctx context.Context) { f.to.Run(ctx) }

func (f *statsdForwarder) configure(cfg Config) {
	f.resize(cfg.Forward.StatsD)
	f.know(cfg.Forward.StatsD.To)
	f.to.Configure(cfg.Forward.StatsD.outlet())
}

func (f *statsdForwarder) end() {
	if n := f.abandon(); n > 0 {
		f.log.Error("lines dropped at the end of the drain", "protocol", "statsd", "lines", n)
	}
}

func (f *statsdForwarder) destinations() []*destination                { return []*destination{f.to} }
func (f *statsdForwarder) upstreams([]UpstreamStatus) []UpstreamStatus { return nil }
