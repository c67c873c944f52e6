package proxy

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/line"
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
}

// A Proxy takes lines, rewrites and forwards them. It is also a
// prometheus.Collector of its own numbers.
type Proxy struct {
	cfg       Config
	log       *slog.Logger
	telemetry prometheus.Gatherer

	naming    *naming
	queues    [2]*queue    // by protocol
	upstreams [2]*upstream // by protocol; nil where there is nowhere to send
	bad       *badLines
	lender    lender
	busy      busy
	drainTime time.Duration // how long the upstreams have, at the end, to take what waits

	poller    *poller     // set by Bind
	listeners []*listener // likewise
}

// New returns a Proxy that rewrites to the name that names holds. It checks
// cfg (the error is a conf.Problems), and does no I/O.
func New(cfg Config, names Names, opt Options) (*Proxy, error) {
	if err := cfg.Problems().Err(); err != nil {
		return nil, err
	}
	p := &Proxy{
		cfg:       cfg,
		log:       opt.Log,
		telemetry: opt.Telemetry,
		naming:    newNaming(names, cfg.Rewrite),
		bad:       &badLines{},
		drainTime: drainTime,
	}
	if p.log == nil {
		p.log = slog.New(slog.DiscardHandler)
	}
	f := cfg.Forward
	p.queues[line.StatsD] = newQueue(int(f.StatsD.Queue), statsdMaxAge, len(f.StatsD.To))
	p.queues[line.Carbon] = newQueue(int(f.Carbon.Queue), 0, len(f.Carbon.To))
	stdout := &lockedWriter{w: opt.Stdout}
	p.upstreams[line.StatsD] = p.newUpstream(line.StatsD, f.StatsD.To, stdout)
	p.upstreams[line.Carbon] = p.newUpstream(line.Carbon, f.Carbon.To, stdout)
	return p, nil
}

func (p *Proxy) newUpstream(proto line.Protocol, to []Address, stdout io.Writer) *upstream {
	if len(to) == 0 {
		return nil
	}
	u := &upstream{
		to:     to,
		queue:  p.queues[proto],
		dialer: &dialer{proto: proto, maxDatagram: p.cfg.Forward.StatsD.MaxDatagram, stdout: stdout, isOwn: p.isOwn, own: p.detach},
		busy:   &p.busy,
		seek:   seekInterval,
		log:    p.log.With("protocol", proto.String()),
	}
	if proto == line.StatsD {
		u.gate = p.naming
		u.queue.suspended = p.naming.suspended
	}
	return u
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

// Bind binds all listeners, or none. Its error names the address.
func (p *Proxy) Bind() (err error) {
	if p.poller, err = newPoller(); err != nil {
		return err
	}
	b := binder{p.poller}
	statsd, err := b.bindAll(line.StatsD, p.cfg.Listen.StatsD)
	if err != nil {
		p.poller.close()
		return err
	}
	carbon, err := b.bindAll(line.Carbon, p.cfg.Listen.Carbon)
	if err != nil {
		closeAll(statsd)
		p.poller.close()
		return err
	}
	p.listeners = append(statsd, carbon...)
	return nil
}

// detach takes a socket away from the runtime's poller.
func (p *Proxy) detach(conn syscall.Conn) (*socket, error) { return p.poller.detach(conn) }

// isOwn says whether a peer is one of our listeners.
func (p *Proxy) isOwn(network string, peer netip.AddrPort) bool {
	for _, l := range p.listeners {
		if l.address.Network != network || l.address.Port != int(peer.Port()) {
			continue
		}
		host, err := netip.ParseAddrPort(l.at.String())
		if err == nil && (host.Addr().Unmap() == peer.Addr().Unmap() || host.Addr().IsUnspecified() && isLocal(peer.Addr())) {
			return true
		}
	}
	return false
}

// isLocal says whether an address is this host's.
func isLocal(ip netip.Addr) bool {
	ip = ip.Unmap()
	if ip.IsLoopback() {
		return true
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.Equal(net.IP(ip.AsSlice())) {
			return true
		}
	}
	return false
}

// Run reads and forwards until ctx ends, and then, in this order: takes what has
// reached the sockets that are open, closes them, lets the upstreams take what waits
// (5 s), and drops the rest. Bind must have succeeded before. The name may be
// released when Run has returned.
func (p *Proxy) Run(ctx context.Context) error {
	p.logListeners()

	sending, stopSending := context.WithCancel(context.WithoutCancel(ctx))
	var polling, namer, upstreams sync.WaitGroup
	polling.Go(p.poller.run)
	defer polling.Wait()
	defer p.poller.close()
	namer.Go(func() { newNamer(p.naming, p.queues, p.bad).run(sending) })
	for _, u := range p.upstreams {
		if u != nil {
			upstreams.Go(func() { u.run(sending) })
		}
	}

	p.read(ctx)
	p.log.Info("draining", "limit", p.drainTime)
	for _, q := range p.queues {
		q.close()
	}
	limit := time.AfterFunc(p.drainTime, stopSending)
	defer limit.Stop()
	waitAtMost(&upstreams, p.drainTime+time.Second) // a stdout that nobody reads cannot be interrupted
	stopSending()
	namer.Wait()
	for _, proto := range protocols {
		if n := p.queues[proto].abandon(); n > 0 {
			p.log.Error("lines dropped at the end of the drain", "protocol", proto.String(), "lines", n)
		}
	}
	return nil
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

// read reads from all listeners until ctx ends.
func (p *Proxy) read(ctx context.Context) {
	accept := &acceptor{
		slots: make(chan struct{}, p.cfg.Listen.MaxConnections),
		log:   p.log,
		serve: p.serve,
	}
	var readers sync.WaitGroup
	defer readers.Wait()
	for _, l := range p.listeners {
		if l.stream != nil {
			readers.Go(func() { accept.run(ctx, l) })
		} else {
			readers.Go(func() { p.receive(ctx, l) })
		}
	}
	if p.telemetry != nil && p.upstreams[line.StatsD] != nil {
		readers.Go(func() { p.sendTelemetry(ctx) })
	}
}

// serve reads one connection.
func (p *Proxy) serve(ctx context.Context, l *listener, conn net.Conn) {
	peer := peerOf(conn)
	socket, err := p.poller.detach(conn.(syscall.Conn))
	if err != nil {
		p.log.Warn("connection lost", "listener", l.address, "err", err)
		return
	}
	s := &streamReader{
		socket: socket, idle: p.cfg.Listen.IdleTimeout, pacer: p.pacer(p.cfg.Coalesce),
		ingest: newIngest(l.proto, p.bad), queue: p.queues[l.proto], naming: p.naming,
	}
	s.ingest.peer = func() string { return peer }
	s.run(ctx)
}

// pacer returns a reader's pacer. While one reader naps, no other is served, so
// no nap is longer than the shortest pace.
func (p *Proxy) pacer(every time.Duration) pacer {
	nap := min(every, maxNap)
	for _, l := range p.listeners {
		if l.socket != nil {
			nap = min(nap, l.pace(p.cfg.Coalesce))
		}
	}
	return pacer{every: every, nap: nap, busy: &p.busy, poller: p.poller}
}

func peerOf(conn net.Conn) string {
	if a := conn.RemoteAddr(); a != nil {
		return a.String()
	}
	return ""
}

// receive reads one datagram socket.
func (p *Proxy) receive(ctx context.Context, l *listener) {
	defer l.close()
	d := &datagramReader{
		socket: l.socket, pacer: p.pacer(l.pace(p.cfg.Coalesce)), lender: &p.lender,
		ingest: newIngest(l.proto, p.bad), queue: p.queues[l.proto], naming: p.naming,
	}
	d.ingest.peer = d.peer
	d.run(ctx)
}

func (p *Proxy) logListeners() {
	for _, l := range p.listeners {
		attrs := []any{"protocol", l.proto.String(), "listener", l.address}
		if l.socket != nil {
			attrs = append(attrs, "receive_buffer", l.receiveBuffer)
		}
		p.log.Info("listening", attrs...)
		if l.isSmall() {
			p.log.Warn("small receive buffer: input gathers 1ms at most, and bursts may be lost",
				"listener", l.address, "receive_buffer", l.receiveBuffer, "remedy", "sysctl -w net.core.rmem_max=8388608")
		}
		if !l.isPrivate() {
			p.log.Warn("listening on an address that is not loopback: whoever reaches it can write metrics", "listener", l.address)
		}
	}
}

// Status returns a snapshot.
func (p *Proxy) Status() Status {
	s := Status{Listeners: []ListenerStatus{}, Upstreams: []UpstreamStatus{}, Lines: map[string]Books{}}
	for _, l := range p.listeners {
		s.Listeners = append(s.Listeners, ListenerStatus{
			Protocol: l.proto.String(), Address: l.address.String(), ReceiveBuffer: l.receiveBuffer,
		})
	}
	for _, proto := range protocols {
		books, _ := p.queues[proto].snapshot()
		s.Lines[proto.String()] = books.report()
		if u := p.upstreams[proto]; u != nil {
			s.Upstreams = append(s.Upstreams, u.status(proto)...)
		}
	}
	return s
}

// BadLines returns the last refused lines, the newest first.
func (p *Proxy) BadLines() []BadLine { return p.bad.list() }
