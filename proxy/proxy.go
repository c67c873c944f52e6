package proxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/inlet"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// statsdMaxAge is how long a StatsD line may wait before it leaves.
const statsdMaxAge = 10 * time.Second

// drainTime is how long the upstreams have to take what waits, once reading
// has ended, unless a test is in a hurry.
const drainTime = 5 * time.Second

// protocols are all of them, in the order of their numbers.
var protocols = [...]line.Protocol{line.StatsD, line.Carbon}

// Options is what a Proxy needs of the process it runs in.
type Options struct {
	Stdout io.Writer    // where upstream stdout: writes; one write at a time
	Log    *slog.Logger // nil: no log

	// Telemetry is gathered every 10 s and sent as StatsD lines through the
	// proxy's own path; nil: not.
	Telemetry prometheus.Gatherer

	// StateDir is the directory of the spool, which no other process may use; "":
	// what waits is in memory alone.
	StateDir string

	// QueueDirs are where the file of the Carbon queue may be, the best first:
	// on tmpfs, and surviving this process. None, or no StateDir: what waits in
	// memory is lost when the process is killed.
	QueueDirs []string

	// Sockets are descriptors of bound sockets, which somebody else holds too and
	// will pass to our successor. Bind takes them: each is used where a listener
	// is configured at its address, instead of a new one.
	Sockets []*os.File
}

// A Proxy takes lines, rewrites and forwards them. It is also a
// prometheus.Collector of its own numbers.
type Proxy struct {
	cfg     Config // as New or the last Reload was given it; of Run
	options Options
	log     *slog.Logger

	naming    *naming
	statsd    *statsdQueue
	carbon    *carbonQueue
	keeper    *keeper           // nil: there is no spool
	source    *statsdSource     // of statsd
	outlets   [2]*outlet.Outlet // by protocol
	bad       *badLines
	drainTime time.Duration // how long the upstreams have, at the end, to take what waits

	poller  *poll.Poller                // set by Bind
	inlet   atomic.Pointer[inlet.Inlet] // set by Bind
	reloads chan reload                 // for Run
	ended   chan struct{}               // closed when Run reads no more
}

// New returns a Proxy that rewrites to the name that names holds. It checks
// cfg (the error is a conf.Problems), and does no I/O.
func New(cfg Config, names Names, opt Options) (*Proxy, error) {
	if err := cfg.Problems().Err(); err != nil {
		return nil, err
	}
	p := &Proxy{
		cfg:       cfg,
		options:   opt,
		log:       opt.Log,
		naming:    newNaming(names, cfg.Rewrite),
		statsd:    newStatsDQueue(int(cfg.Forward.StatsD.Queue)),
		carbon:    newCarbonQueue(cfg.Forward.Carbon),
		bad:       &badLines{},
		drainTime: drainTime,
		reloads:   make(chan reload),
		ended:     make(chan struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.statsd.suspended = p.naming.suspended
	if opt.StateDir != "" {
		p.keeper = &keeper{
			queue: p.carbon, dir: filepath.Join(opt.StateDir, "spool"),
			naming: p.naming, ingest: newIngest(line.Carbon, p.bad), log: p.log,
		}
	}
	p.source = &statsdSource{queue: p.statsd, gate: p.naming}
	stdout := &lockedWriter{w: opt.Stdout}
	p.outlets[line.StatsD] = p.newOutlet(line.StatsD, p.source, stdout)
	p.outlets[line.Carbon] = p.newOutlet(line.Carbon, p.carbon, stdout)
	return p, nil
}

// queue returns the queue of a protocol.
func (p *Proxy) queue(proto line.Protocol) queue {
	if proto == line.StatsD {
		return p.statsd
	}
	return p.carbon
}

func (p *Proxy) newOutlet(proto line.Protocol, source outlet.Source, stdout io.Writer) *outlet.Outlet {
	cfg := p.cfg.Forward.outlet(proto)
	p.queue(proto).account().know(cfg.To)
	return outlet.New(cfg, outlet.Options{
		Source: source, Log: p.log.With("protocol", proto.String()), Stdout: stdout,
		Resets: proto == line.Carbon, Own: p,
	})
}

// lockedWriter lets both protocols write to one stdout.
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
// ErrUnwantedSocket where a passed socket has no listener.
func (p *Proxy) Bind() (err error) {
	if p.poller, err = poll.New(); err != nil {
		return err
	}
	in := inlet.New(p.poller, p.log, p.newHandler)
	if err := in.Bind(p.cfg.Listen.specs(), p.options.Sockets); err != nil {
		p.poller.Close()
		return err
	}
	p.inlet.Store(in)
	return nil
}

// ErrUnwantedSocket says that a socket was passed to us at whose address nothing is
// to listen.
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

// listeners returns the bound sockets. They may be closed.
func (p *Proxy) listeners() []*inlet.Listener {
	if in := p.inlet.Load(); in != nil {
		return in.Listeners()
	}
	return nil
}

// IsOwn says whether a peer is one of our listeners.
func (p *Proxy) IsOwn(network string, peer netip.AddrPort) bool {
	if network == "tls" {
		network = "tcp"
	}
	in := p.inlet.Load()
	return in != nil && in.Owns(network, peer)
}

// Run reads and forwards until ctx ends, and then, in this order: takes what has
// reached the sockets (but for passed ones, which keep it for our successor),
// closes them, lets the upstreams take what waits (5 s), and keeps the rest of
// Carbon for the next process. Bind must have succeeded before. The name may be released when Run has returned.
func (p *Proxy) Run(ctx context.Context) error {
	closeQueue := p.openQueue()

	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	var polling, beside, upstreams sync.WaitGroup
	polling.Go(p.poller.Run)
	defer polling.Wait()
	defer p.poller.Close()
	beside.Go(func() { newNamer(p.naming, [2]queue{p.statsd, p.carbon}, p.bad).run(sending) })
	if p.keeper != nil {
		beside.Go(func() { p.keeper.run(sending) })
	}
	upstreams.Go(func() {
		p.outlets[line.StatsD].Run(sending)
		p.source.abandon()
	})
	upstreams.Go(func() { p.outlets[line.Carbon].Run(sending) })

	p.read(ctx)
	p.log.Info("draining", "limit", p.drainTime)
	p.statsd.close()
	p.carbon.close()
	limit := time.AfterFunc(p.drainTime, stopSending)
	defer limit.Stop()
	waitAtMost(&upstreams, p.drainTime+time.Second) // a stdout that nobody reads cannot be interrupted
	stopSending()
	beside.Wait()
	closeQueue()
	return nil
}

// openQueue opens the file of the Carbon queue, with what a predecessor left in
// it. It returns what ends the use of the queues.
func (p *Proxy) openQueue() (end func()) {
	file := queueFile{state: p.options.StateDir, log: p.log}
	if file.state != "" {
		file.dirs = p.options.QueueDirs
	}
	if len(file.dirs) > 0 {
		j, left := file.open()
		if n := p.carbon.adopt(j, left); n > 0 {
			p.log.Info("lines found in the queue of an earlier process", "lines", n)
		}
	}
	return func() {
		p.dropStatsD()
		if err := file.close(p.carbon.journal, p.keepCarbon()); err != nil {
			p.log.Warn("queue's file not closed", "err", err)
		}
	}
}

// dropStatsD drops what is left of StatsD at the end.
func (p *Proxy) dropStatsD() {
	if n := p.statsd.abandon(); n > 0 {
		p.log.Error("lines dropped at the end of the drain", "protocol", "statsd", "lines", n)
	}
}

// keepCarbon keeps what is left of Carbon at the end: in the spool, or else in the
// file of the queue. It says whether nothing is left in that.
func (p *Proxy) keepCarbon() (empty bool) {
	err := errNoSpool
	if p.keeper != nil {
		err = p.keeper.keepRest()
	}
	left := p.carbon.left()
	switch {
	case left == 0 && p.carbon.isEmpty():
		if err != nil && !errors.Is(err, errNoSpool) {
			p.log.Warn("spool not closed well", "err", err)
		}
		return true
	case p.carbon.journal.Path() != "":
		p.log.Warn("lines left in the queue's file for the next start", "lines", left, "file", p.carbon.journal.Path(), "err", err)
		return false
	}
	p.carbon.abandon()
	p.log.Error("lines dropped at the end of the drain", "protocol", "carbon", "lines", left, "err", err)
	return true
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
	s := Status{Listeners: []ListenerStatus{}, Upstreams: []UpstreamStatus{}, Lines: map[string]Books{}}
	for _, l := range p.listeners() {
		s.Listeners = append(s.Listeners, ListenerStatus{
			Protocol: l.Protocol.String(), Address: l.Address.String(), ReceiveBuffer: l.ReceiveBuffer,
		})
	}
	for _, proto := range protocols {
		books, _ := p.queue(proto).snapshot()
		s.Lines[proto.String()] = books.report()
		for _, u := range p.outlets[proto].Status() {
			s.Upstreams = append(s.Upstreams, UpstreamStatus{
				Protocol: proto.String(), Address: u.Address.String(), Resolved: u.Resolved, Up: u.Up, Since: u.Since, Reason: u.Reason,
			})
		}
	}
	return s
}

// BadLines returns the last refused lines, the newest first.
func (p *Proxy) BadLines() []BadLine { return p.bad.list() }
