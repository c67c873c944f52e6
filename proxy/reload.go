package proxy

import (
	"context"
	"errors"
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// A reload asks Run to go on with another configuration.
type reload struct {
	cfg  Config
	done chan error // cap 1: what became of it
}

var errEnded = errors.New("the proxy is ending")

// Reload makes Run, which must be running, go on with cfg. A listener that stays is
// not closed, its connections go on, and no line in a queue is lost. New listeners
// are bound first; those that are configured no more end as at the end of Run.
//
// Rewriting rules hold for lines that are named from now on, the idle time-out and
// the limit of connections from the next wait and the next connection on. The
// session with an upstream that is configured no more ends gracefully. A queue that
// has become too small for what is in it keeps that.
//
// With an error, nothing has changed: a conf.Problems, or which address cannot be
// bound; or ErrUnwantedSocket, where a passed socket would have no listener.
func (p *Proxy) Reload(cfg Config) error {
	if err := cfg.Problems().Err(); err != nil {
		return err
	}
	r := reload{cfg, make(chan error, 1)}
	select {
	case p.reloads <- r:
		return <-r.done
	case <-p.ended:
		return errEnded
	}
}

// read reads from all listeners until ctx ends, and does what reloads ask for.
func (p *Proxy) read(ctx context.Context) {
	defer close(p.ended)
	r := newReaders(p)
	defer r.endAll()
	p.waits.set(p.cfg, p.listeners())
	r.begin(ctx, p.listeners())
	r.beginTelemetry(ctx)
	for {
		select {
		case ask := <-p.reloads:
			ask.done <- p.change(ctx, r, ask.cfg)
		case <-ctx.Done():
			return
		}
	}
}

// change makes cfg the configuration.
func (p *Proxy) change(ctx context.Context, r *readers, cfg Config) error {
	b := binder{poller: p.poller, have: slices.Clone(p.listeners())}
	listeners, err := b.bindAll(cfg.Listen)
	if err != nil {
		return err
	}
	p.cfg = cfg
	p.bound.Store(&listeners)
	p.naming.setRules(cfg.Rewrite)
	p.waits.set(cfg, listeners)
	p.statsd.resize(cfg.Forward.StatsD)
	p.carbon.resize(cfg.Forward.Carbon)

	p.logListeners(b.added)
	r.acceptor.setLimit(cfg.Listen.MaxConnections)
	r.begin(ctx, b.added)
	r.end(b.have)
	r.endTelemetry()
	for _, proto := range protocols {
		to := cfg.Forward.outlet(proto)
		p.queue(proto).account().know(to.To)
		p.outlets[proto].Configure(to)
	}
	r.beginTelemetry(ctx)
	return nil
}

// outlet is what the outlet of a protocol needs to know.
func (f Forward) outlet(proto line.Protocol) outlet.Config {
	if proto == line.StatsD {
		return outlet.Config{To: f.StatsD.To, TLS: f.StatsD.TLS, MaxAge: f.StatsD.MaxAge, MaxDatagram: f.StatsD.MaxDatagram}
	}
	return outlet.Config{To: f.Carbon.To, TLS: f.Carbon.TLS, MaxAge: f.Carbon.MaxAge}
}

// readers are the goroutines that bring lines. Run begins and ends them.
type readers struct {
	proxy     *Proxy
	acceptor  *acceptor
	listeners map[*listener]*task
	telemetry *task              // nil: not sent
	sent      map[string]float64 // what telemetry sent last of each counter
}

func newReaders(p *Proxy) *readers {
	return &readers{
		proxy:     p,
		acceptor:  &acceptor{limit: p.cfg.Listen.MaxConnections, log: p.log, reader: p.streamReader},
		listeners: map[*listener]*task{},
		sent:      map[string]float64{},
	}
}

// begin begins to read from listeners. It takes them.
func (r *readers) begin(ctx context.Context, listeners []*listener) {
	for _, l := range listeners {
		r.listeners[l] = newTask(ctx, func(ctx context.Context) {
			if l.stream != nil {
				r.acceptor.run(ctx, l)
			} else {
				r.proxy.receive(ctx, l)
			}
		})
	}
}

// end ends the reading from listeners, and returns when it has.
func (r *readers) end(listeners []*listener) {
	for _, l := range listeners {
		r.listeners[l].stop()
	}
	for _, l := range listeners {
		<-r.listeners[l].ended
		delete(r.listeners, l)
		r.proxy.log.Info("listening no more", "protocol", l.proto.String(), "listener", l.address)
	}
}

// beginTelemetry begins to send our own numbers, where they are wanted.
func (r *readers) beginTelemetry(ctx context.Context) {
	p, from := r.proxy, r.proxy.cfg.Rewrite.From
	if p.options.Telemetry != nil && p.cfg.Telemetry && len(p.cfg.Forward.StatsD.To) > 0 {
		r.telemetry = newTask(ctx, func(ctx context.Context) { p.sendTelemetry(ctx, from, r.sent) })
	}
}

func (r *readers) endTelemetry() {
	if r.telemetry != nil {
		r.telemetry.stop()
		<-r.telemetry.ended
		r.telemetry = nil
	}
}

// endAll waits for all, whose context has ended.
func (r *readers) endAll() {
	r.endTelemetry()
	for _, t := range r.listeners {
		<-t.ended
	}
}

// A task is a goroutine that can be ended.
type task struct {
	stop  context.CancelFunc
	ended chan struct{}
}

func newTask(ctx context.Context, do func(ctx context.Context)) *task {
	ctx, stop := context.WithCancel(ctx)
	t := &task{stop, make(chan struct{})}
	go func() {
		defer close(t.ended)
		defer stop()
		do(ctx)
	}()
	return t
}
