package proxy

import (
	"context"
	"slices"
	"sync"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/store"
)

// outlets are where lines leave: one for StatsD that is forwarded, and one for each
// destination of Carbon. Run's goroutine begins them; any may ask for them.
type outlets struct {
	sending context.Context
	running sync.WaitGroup

	mu   sync.Mutex
	list []*destination // StatsD's first, if it has servers
}

// A destination is who is sent every line of a protocol.
type destination struct {
	*outlet.Outlet
	protocol line.Protocol
	name     string
	cursor   *store.Cursor // nil: StatsD's
}

// all returns the outlets as they are.
func (o *outlets) all() []*destination {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.list)
}

// begin begins to send what p's configuration wants to be sent, until ctx ends.
func (o *outlets) begin(ctx context.Context, p *Proxy) {
	o.sending = ctx
	o.running.Go(func() { p.statsd.run(ctx) })
	o.follow(p)
}

// follow makes the outlets of Carbon those of p's configuration. The sessions of those
// that go end in order.
func (o *outlets) follow(p *Proxy) {
	had, list := o.all(), p.statsd.destinations()
	for _, f := range p.cfg.Forward.Carbon {
		cursor := p.carbon.store.Cursor(f.Name)
		d := &destination{protocol: line.Carbon, name: f.Name, cursor: cursor}
		list = append(list, d)
		if i := slices.IndexFunc(had, func(d *destination) bool { return d.cursor == cursor }); i >= 0 {
			d.Outlet = had[i].Outlet // whatever its name was
			d.Configure(f.outlet())
			continue
		}
		d.Outlet = outlet.New(f.outlet(), p.outletOptions(line.Carbon, f.Name, cursor))
		o.running.Go(func() { d.Run(o.sending) })
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.list = list
}

func (p *Proxy) outletOptions(proto line.Protocol, name string, source outlet.Source) outlet.Options {
	log := p.log.With("protocol", proto.String())
	if name != "" {
		log = log.With("destination", name)
	}
	dialer := link.Dialer{Stdout: p.options.Stdout, Resets: proto == line.Carbon, Own: p}
	return outlet.Options{Source: source, Log: log, Dialer: dialer, Follow: p.inlet.Gathers}
}

// outlet is what the outlet of StatsD needs to know.
func (f StatsDForward) outlet() outlet.Config {
	return outlet.Config{To: f.To, TLS: f.TLS, MaxAge: f.MaxAge, MaxDatagram: f.MaxDatagram}
}

// outlet is what the outlet of a destination needs to know.
func (f CarbonForward) outlet() outlet.Config {
	return outlet.Config{To: f.To, TLS: f.TLS, MaxAge: f.MaxAge}
}
