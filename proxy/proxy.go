package proxy

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/inlet"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/internal/store"
)

// statsdMaxAge is how long a StatsD line may wait before it leaves.
const statsdMaxAge = 10 * time.Second

// drainTime is how long the upstreams have to take what waits, once reading
// has ended, unless a test is in a hurry.
const drainTime = 5 * time.Second

// Options is what a Proxy needs of the process it runs in.
type Options struct {
	Stdout io.Writer    // where upstream stdout: writes; one write at a time
	Log    *slog.Logger // nil: no log

	// Owner is the host name, which should not be in any metric: the log warns of an
	// application that writes it. "": not known.
	Owner string

	// Telemetry is gathered every 10 s and sent as StatsD lines through the
	// proxy's own path; nil: not.
	Telemetry prometheus.Gatherer

	// Places are where lines wait that outlive this process; none: they don't.
	Places store.Places

	// Sockets are descriptors of bound sockets that somebody else also holds and will
	// pass to the next process. Bind uses each for the listener configured at its
	// address, instead of a new one.
	Sockets []*os.File
}

// A Proxy takes lines, rewrites and forwards them. It is also a
// prometheus.Collector of its own numbers.
type Proxy struct {
	cfg     Config // as New or the last Reload was given it; of Run
	options Options
	log     *slog.Logger

	naming    *naming
	namer     *namer
	statsd    statsdSink
	carbon    *carbonQueue
	queues    [2]queue // these, by protocol
	outlets   outlets
	bad       *badLines
	owner     *ownName
	drainTime time.Duration // how long the upstreams have, at the end, to take what waits

	inlet   *inlet.Inlet
	reloads chan reload   // for Run
	ended   chan struct{} // closed when Run reads no more
}

// New returns a Proxy that rewrites to the name that names holds. It checks
// cfg (the error is a conf.Problems), and does no I/O.
func New(cfg Config, names Names, opt Options) (*Proxy, error) {
	if err := cfg.Problems().Err(); err != nil {
		return nil, err
	}
	cfg.Forward.Carbon = slices.Clone(cfg.Forward.Carbon)
	p := &Proxy{
		cfg:       cfg,
		options:   opt,
		log:       opt.Log,
		naming:    newNaming(names, cfg.rules()),
		carbon:    newCarbonQueue(),
		bad:       &badLines{},
		drainTime: drainTime,
		reloads:   make(chan reload),
		ended:     make(chan struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.inlet = inlet.New(p.log, p.newHandler)
	p.owner = newOwnName(opt.Owner, p.log)
	p.options.Stdout = &lockedWriter{w: opt.Stdout}
	if cfg.Forward.StatsD.Aggregates() {
		p.statsd = newPointQueue(p)
	} else {
		p.statsd = newStatsDForwarder(p)
	}
	p.outlets.list = p.statsd.destinations()
	p.queues = [...]queue{line.StatsD: p.statsd, line.Carbon: p.carbon}
	p.namer = newNamer(p.naming, p.queues, p.bad)
	return p, nil
}

// lockedWriter lets all outlets write to one stdout.
type lockedWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// Bind binds all listeners, or none. Its error names the address; it is an
// ErrUnwantedSocket if a passed socket has no listener.
func (p *Proxy) Bind(ctx context.Context) error {
	return p.inlet.Bind(ctx, p.cfg.Listen.specs(), p.options.Sockets)
}

// ErrUnwantedSocket means that a socket was passed to us for an address at which no
// listener is configured.
var ErrUnwantedSocket = inlet.ErrUnwantedSocket

// specs are the sockets that a configuration asks for.
func (l Listen) specs() (specs []inlet.Spec) {
	for _, a := range l.StatsD {
		specs = append(specs, inlet.Spec{Protocol: line.StatsD, Address: a})
	}
	for _, a := range l.Carbon {
		specs = append(specs, inlet.Spec{Protocol: line.Carbon, Address: a})
	}
	return specs
}

// settings are how a configuration wants sockets to be read.
func (c Config) settings() inlet.Settings {
	return inlet.Settings{Coalesce: c.Coalesce, MaxConnections: c.Listen.MaxConnections, IdleTimeout: c.Listen.IdleTimeout}
}

// IsOwn says whether dialling at, in a network of package net, reaches one of our
// listeners.
func (p *Proxy) IsOwn(network, at string) bool { return p.inlet.Owns(network, at) }

// Run reads and forwards until ctx ends, and then, in this order: takes what has reached
// the sockets (except passed ones, which keep it for the next process), closes them, lets
// the upstreams take what waits (5 s), and keeps the rest of Carbon for the next process.
// Bind must have succeeded before. The name may be released when Run has returned.
//
// An error is about the files of an earlier process; then nothing was started.
func (p *Proxy) Run(ctx context.Context) error {
	if err := p.open(); err != nil {
		close(p.ended)
		return err
	}
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var beside sync.WaitGroup
	beside.Go(func() { p.namer.run(sending) })
	beside.Go(func() { p.carbon.store.Run(sending) })
	p.outlets.begin(sending, p)

	p.read(ctx)
	p.log.Info("draining", "limit", p.drainTime)
	p.statsd.close()
	p.carbon.close()
	limit := time.AfterFunc(p.drainTime, stopSending)
	defer limit.Stop()
	waitAtMost(&p.outlets.running, p.drainTime+time.Second) // a stdout that nobody reads cannot be interrupted
	stopSending()
	beside.Wait()
	p.statsd.end()
	p.keepCarbon()
	return nil
}

// open finds what an earlier process left.
func (p *Proxy) open() error {
	if err := p.carbon.open(p.options.Places, p.cfg.Forward.Carbon, p.log); err != nil {
		return err
	}
	return p.statsd.open(p.cfg, aggregateDirs(p.carbon.store.Memory(), p.options.Places.State))
}

// keepCarbon keeps what is left of Carbon at the end, for the next process, and says
// what became of it.
func (p *Proxy) keepCarbon() {
	_, before := p.carbon.accounts()
	if err := p.carbon.store.Close(); err != nil {
		p.log.Warn("spool not closed well", "err", err)
	}
	_, after := p.carbon.accounts()
	for i, a := range after {
		log := p.log.With("protocol", "carbon", "destination", a.bound.Destination)
		if n := a.dropped[shutdown] - before[i].dropped[shutdown]; n > 0 {
			log.Error("lines dropped at the end of the drain", "lines", n)
		}
		if a.queued > 0 {
			log.Warn("lines left in memory for the next start", "lines", a.queued)
		}
	}
}

// waitAtMost waits for wg, but no longer than limit.
func waitAtMost(wg *sync.WaitGroup, limit time.Duration) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		wg.Wait()
	}()
	select {
	case <-ended:
	case <-time.After(limit):
	}
}

// Status returns a snapshot.
func (p *Proxy) Status() Status {
	statsd := p.statsd.account()
	_, carbon := p.carbon.accounts()
	s := Status{
		Listeners: []ListenerStatus{},
		Upstreams: append([]UpstreamStatus{}, p.upstreams()...),
		Lines:     map[string]Books{line.StatsD.String(): statsd.report(), line.Carbon.String(): carbon[0].report()},
		Bounds:    []Bound{statsd.bound},
	}
	for _, l := range p.inlet.Listeners() {
		s.Listeners = append(s.Listeners, ListenerStatus{
			Protocol: l.Protocol.String(), Address: l.Address.String(), ReceiveBuffer: l.ReceiveBuffer,
		})
		if n, err := l.KernelDrops(); err == nil {
			s.KernelDrops += n
		}
	}
	c := p.inlet.Connections()
	s.AcceptsDelayed = c.Waited + c.ShortOf
	for _, a := range carbon {
		s.Destinations = append(s.Destinations, DestinationStatus{Name: a.bound.Destination, Lines: a.report()})
		if !a.removed {
			s.Bounds = append(s.Bounds, a.bound)
		}
	}
	return s
}

// upstreams returns the addresses to which lines go, StatsD's first.
func (p *Proxy) upstreams() (all []UpstreamStatus) {
	for _, d := range p.outlets.all() {
		for _, u := range d.Status() {
			all = append(all, UpstreamStatus{
				Protocol: d.protocol.String(), Destination: d.name, Address: u.Address.String(),
				Resolved: u.Resolved, Up: u.Up, Since: u.Since, Reason: u.Reason,
			})
		}
	}
	return append(p.statsd.upstreams(all), all...)
}

// Loops returns the loops that wait for sockets, name lines, read datagrams, and send. It is to
// be called after Bind.
func (p *Proxy) Loops() []pulse.Loop {
	all := append(p.inlet.Loops(), &p.namer.pulse)
	for _, o := range p.outlets.all() {
		all = append(all, o.Pulse())
	}
	return all
}

// BadLines returns the last refused lines, the newest first.
func (p *Proxy) BadLines() []BadLine { return p.bad.list() }
