package proxy

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// A reload asks Run to go on with another configuration.
type reload struct {
	cfg  Config
	done chan error // cap 1: what became of it
}

// errAggregates says that StatsD cannot begin or end to become points here.
var errAggregates = errors.New("forward.statsd.to cannot change from servers to [carbon:], or back, while lines are counted: restart")

var errEnded = errors.New("the proxy is ending")

// Reload makes Run, which must be running, continue with cfg. A listener that stays is
// not closed, its connections continue, and no line in a queue is lost. New listeners are
// bound first; those no longer configured end as at the end of Run.
//
// Rewriting rules apply to lines that are named from now on, the idle time-out and the
// connection limit from the next wait and the next connection on. The session with an
// upstream that is no longer configured ends gracefully. A queue that has become too
// small for what is in it keeps that.
//
// With an error, nothing has changed: it is a conf.Problems, names the address that
// cannot be bound, or is ErrUnwantedSocket if a passed socket would have no listener.
func (p *Proxy) Reload(cfg Config) error {
	if err := cfg.Problems().Err(); err != nil {
		return err
	}
	cfg.Forward.Carbon = slices.Clone(cfg.Forward.Carbon)
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
	p.inlet.Begin(ctx, p.cfg.settings())
	defer p.inlet.Wait()
	var telling sync.WaitGroup
	defer telling.Wait()
	t := newTelemetry(p)
	t.follow(p.cfg)
	telling.Go(func() { t.run(ctx) })
	for {
		select {
		case ask := <-p.reloads:
			ask.done <- p.change(ctx, ask.cfg, t)
		case <-ctx.Done():
			return
		}
	}
}

// change makes cfg the configuration.
func (p *Proxy) change(ctx context.Context, cfg Config, t *telemetry) error {
	if cfg.Forward.StatsD.Aggregates() != p.cfg.Forward.StatsD.Aggregates() {
		return errAggregates
	}
	if err := p.inlet.Rebind(ctx, cfg.Listen.specs(), cfg.settings()); err != nil {
		return err
	}
	p.cfg = cfg
	p.naming.setRules(cfg.rules())
	p.statsd.configure(cfg)
	p.carbon.redirect(cfg.Forward.Carbon)
	p.outlets.follow(p)
	t.follow(cfg)
	return nil
}
