package proxy

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/inlet"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/internal/store"
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

	// Owner is what the host is called by others, which no metric should be: who
	// writes it is told in the log. "": not known.
	Owner string

	// Telemetry is gathered every 10 s and sent as StatsD lines through the
	// proxy's own path; nil: not.
	Telemetry prometheus.Gatherer

	// StateDir is the directory of the spool, which no other process may use; "":
	// what waits is in memory alone.
	StateDir string

	// QueueDirs are where Carbon's queue may have a directory of its own, the best
	// first: on tmpfs, and surviving this process. None, or no StateDir: what waits
	// in memory is lost when the process is killed.
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
	points    *pointQueue // in the place of statsd, where StatsD becomes points; or nil
	carbon    *carbonQueue
	source    *statsdSource // of statsd
	outlets   outlets
	bad       *badLines
	owner     *ownName
	drainTime time.Duration // how long the upstreams have, at the end, to take what waits

	poller  *poll.Poller                // set by Bind
	inlet   atomic.Pointer[inlet.Inlet] // set by Bind
	reloads chan reload                 // for Run
	ended   chan struct{}               // closed when Run reads no more
	alive   chan chan struct{}          // asks the namer to answer
	running atomic.Bool                 // its loops run
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
		statsd:    newStatsDQueue(int(cfg.Forward.StatsD.Queue)),
		carbon:    newCarbonQueue(),
		bad:       &badLines{},
		drainTime: drainTime,
		reloads:   make(chan reload),
		ended:     make(chan struct{}),
		alive:     make(chan chan struct{}),
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	p.owner = newOwnName(opt.Owner, p.log)
	if cfg.Forward.StatsD.Aggregates() {
		p.points = newPointQueue(p.naming, p.carbon, p.bad)
	}
	p.statsd.suspended = p.naming.suspended
	p.source = &statsdSource{queue: p.statsd, gate: p.naming}
	p.options.Stdout = &lockedWriter{w: opt.Stdout}
	p.outlets.init(p)
	return p, nil
}

// queue returns the queue of a protocol.
func (p *Proxy) queue(proto line.Protocol) queue {
	switch {
	case proto == line.StatsD && p.points != nil:
		return p.points
	case proto == line.StatsD:
		return p.statsd
	}
	return p.carbon
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

// IsOwn says whether who dials at, in a network of package net, reaches one of our
// listeners.
func (p *Proxy) IsOwn(network, at string) bool {
	in := p.inlet.Load()
	return in != nil && in.Owns(network, at)
}

// Run reads and forwards until ctx ends, and then, in this order: takes what has
// reached the sockets (but for passed ones, which keep it for our successor),
// closes them, lets the upstreams take what waits (5 s), and keeps the rest of
// Carbon for the next process. Bind must have succeeded before. The name may be released when Run has returned.
//
// An error is one of the files of an earlier process, and nothing was started.
func (p *Proxy) Run(ctx context.Context) error {
	if err := p.carbon.open(p.places(), p.cfg.Forward.Carbon, p.log); err != nil {
		p.poller.Close()
		return err
	}
	if err := p.openPoints(); err != nil {
		p.poller.Close()
		return err
	}
	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSending()
	var polling, beside sync.WaitGroup
	polling.Go(p.poller.Run)
	defer polling.Wait()
	defer p.poller.Close()
	beside.Go(func() { newNamer(p.naming, [2]queue{p.queue(line.StatsD), p.carbon}, p.bad).run(sending, p.alive) })
	beside.Go(func() { p.carbon.store.Run(sending) })
	if p.points != nil {
		beside.Go(func() { p.points.run(sending, p.noteTrouble) })
	}
	p.outlets.begin(sending, p)
	p.running.Store(true)

	p.read(ctx)
	p.log.Info("draining", "limit", p.drainTime)
	p.statsd.close()
	p.closePoints()
	p.carbon.close()
	limit := time.AfterFunc(p.drainTime, stopSending)
	defer limit.Stop()
	waitAtMost(&p.outlets.running, p.drainTime+time.Second) // a stdout that nobody reads cannot be interrupted
	p.running.Store(false)
	stopSending()
	beside.Wait()
	p.dropStatsD()
	p.keepCarbon()
	return nil
}

// openPoints goes on with what the last process had counted. If nothing is counted here
// any more, the points of what a kill has left leave at once.
func (p *Proxy) openPoints() error {
	memory, state := p.carbon.store.Memory(), p.options.StateDir
	if p.points != nil {
		return p.points.open(p.cfg.Aggregate, memory, state)
	}
	if !aggregate.IsLeft(pointDirs(memory, state)) {
		return nil
	}
	left := newPointQueue(p.naming, p.carbon, p.bad)
	if err := left.open(p.cfg.Aggregate, memory, state); err != nil {
		return err
	}
	if left.books.adopted > 0 {
		left.close()
		p.statsd.takeOver(left.books)
	}
	return left.leave(state)
}

// noteTrouble says what went wrong with the files of what is counted.
func (p *Proxy) noteTrouble(err error) {
	p.log.Error("what is counted would not survive a kill", "err", err)
}

// closePoints puts the points of all StatsD into Carbon's queue, and keeps the gauges
// for the next process.
func (p *Proxy) closePoints() {
	if p.points == nil {
		return
	}
	p.points.close()
	if err := p.points.leave(p.options.StateDir); err != nil {
		p.log.Warn("gauges are not kept for the next start", "err", err)
	}
}

// places are where Carbon's lines are kept.
func (p *Proxy) places() store.Places {
	if p.options.StateDir == "" {
		return store.Places{}
	}
	return store.Places{State: p.options.StateDir, Memory: p.options.QueueDirs}
}

// dropStatsD drops what is left of StatsD at the end.
func (p *Proxy) dropStatsD() {
	if n := p.statsd.abandon(); n > 0 {
		p.log.Error("lines dropped at the end of the drain", "protocol", "statsd", "lines", n)
	}
}

// keepCarbon keeps what is left of Carbon at the end, for the next process, and says
// what became of it.
func (p *Proxy) keepCarbon() {
	before := p.carbon.accounts()
	if err := p.carbon.store.Close(); err != nil {
		p.log.Warn("spool not closed well", "err", err)
	}
	for i, a := range p.carbon.accounts() {
		log := p.log.With("protocol", "carbon", "destination", a.name)
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
	s := Status{Listeners: []ListenerStatus{}, Upstreams: []UpstreamStatus{}, Lines: map[string]Books{}}
	for _, l := range p.listeners() {
		s.Listeners = append(s.Listeners, ListenerStatus{
			Protocol: l.Protocol.String(), Address: l.Address.String(), ReceiveBuffer: l.ReceiveBuffer,
		})
	}
	for _, proto := range protocols {
		books, _ := p.queue(proto).snapshot()
		s.Lines[proto.String()] = books.report()
	}
	_, bytes := p.statsd.snapshot()
	s.Bounds = []Bound{{Protocol: line.StatsD.String(), Queue: int64(bytes), QueueLimit: int64(p.statsd.bound())}}
	for _, a := range p.carbon.accounts() {
		s.Destinations = append(s.Destinations, DestinationStatus{Name: a.name, Lines: a.report()})
		if !a.kept.Removed {
			s.Bounds = append(s.Bounds, Bound{
				Protocol: line.Carbon.String(), Destination: a.name, Queue: a.kept.QueueBytes, QueueLimit: a.kept.QueueLimit,
				Spool: a.kept.SpoolBytes, SpoolLimit: a.kept.SpoolLimit, Oldest: a.kept.Oldest,
			})
		}
	}
	for _, d := range p.outlets.all() {
		for _, u := range d.Status() {
			s.Upstreams = append(s.Upstreams, UpstreamStatus{
				Protocol: d.protocol.String(), Destination: d.name, Address: u.Address.String(),
				Resolved: u.Resolved, Up: u.Up, Since: u.Since, Reason: u.Reason,
			})
		}
	}
	if p.points != nil {
		s.Upstreams = append([]UpstreamStatus{carbonAsUpstream(s.Upstreams)}, s.Upstreams...)
	}
	return s
}

// Alive returns nil when the loops of Run do what they are asked for, and the queues can
// be looked at; ctx's error when that does not come before it ends. Before Run, and
// after it, nothing is asked.
func (p *Proxy) Alive(ctx context.Context) error {
	if !p.running.Load() {
		return nil
	}
	if err := p.poller.Probe(ctx); err != nil {
		return err
	}
	answer := make(chan struct{})
	select {
	case p.alive <- answer:
		<-answer
	case <-ctx.Done():
		return ctx.Err()
	}
	p.Status() // takes the locks
	return nil
}

// Loops are those that read datagrams and that send.
func (p *Proxy) Loops() (all []pulse.Loop) {
	for _, l := range p.listeners() {
		all = append(all, l.Pulse())
	}
	for _, o := range p.outlets.all() {
		all = append(all, o.Pulse())
	}
	return all
}

// carbonAsUpstream is StatsD's upstream, where that becomes points: it is up while one of
// Carbon's is.
func carbonAsUpstream(all []UpstreamStatus) UpstreamStatus {
	u := UpstreamStatus{Reason: "no Carbon upstream is up"}
	for i, c := range all {
		if i == 0 || c.Up && !u.Up {
			u = c
		}
	}
	u.Protocol, u.Destination, u.Address = line.StatsD.String(), "", "carbon:"
	return u
}

// BadLines returns the last refused lines, the newest first.
func (p *Proxy) BadLines() []BadLine { return p.bad.list() }
