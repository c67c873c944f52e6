package proxy

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership"
)

// patience bounds every wait of the tests; none should come near.
const patience = 20 * time.Second

// fakeNames is a holder that does what a test says.
type fakeNames struct {
	mu      sync.Mutex
	claim   *membership.Claim
	state   membership.State
	changed chan struct{}
}

func noNames() *fakeNames {
	return &fakeNames{state: membership.Claiming, changed: make(chan struct{})}
}

func holding(name string) *fakeNames {
	f := noNames()
	f.set(newClaim(name, time.Hour), membership.Held)
	return f
}

func newClaim(name string, valid time.Duration) *membership.Claim {
	return claimtest.Make(claimtest.Claim{Name: name, Valid: valid}).(*membership.Claim)
}

func (f *fakeNames) set(claim *membership.Claim, state membership.State) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.claim != nil && f.claim != claim {
		claimtest.End(f.claim)
	}
	f.claim, f.state = claim, state
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *fakeNames) Current() (*membership.Claim, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.claim, f.claim != nil && f.claim.Valid()
}

func (f *fakeNames) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeNames) State() membership.State {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.state
}

// testConfig listens on free ports of 127.0.0.1 and sends to the sinks.
func testConfig(statsd, carbon Upstream) Config {
	cfg := DefaultConfig()
	cfg.Rewrite.Names = []string{"Denali", "MtLogan", "KingPeak"}
	cfg.Coalesce = time.Millisecond
	free := func(network string) Address { return Address{Network: network, Host: "127.0.0.1"} }
	cfg.Listen.StatsD = []Address{free("udp"), free("tcp")}
	cfg.Listen.Carbon = []Address{free("tcp"), free("udp")}
	cfg.Forward.StatsD.To = []Upstream{statsd}
	cfg.Forward.Carbon[0].To = []Upstream{carbon}
	cfg.Forward.Carbon[0].Replay = 0 // what arrived stays so
	return cfg
}

// running is a proxy at work.
type running struct {
	*Proxy
	stop func() // ends it and waits; may be called twice
}

// start runs a proxy until the end of the test, or until stop.
func start(t testing.TB, cfg Config, names Names) *running {
	t.Helper()
	return startWith(t, cfg, names, Options{Stdout: io.Discard})
}

func startWith(t testing.TB, cfg Config, names Names, opt Options) *running {
	t.Helper()
	p, err := New(cfg, names, opt)
	if err != nil {
		t.Fatal(err)
	}
	p.drainTime = time.Second
	if err := p.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := p.Run(ctx); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	r := &running{p, func() { cancel(); <-ended }}
	t.Cleanup(r.stop)
	eventually(t, "it sends", func() bool { return len(p.outlets.all()) >= len(cfg.Forward.Carbon)+len(p.statsd.destinations()) })
	return r
}

// dial connects to the i-th listener of a protocol.
func (r *running) dial(t testing.TB, protocol string, i int) net.Conn {
	t.Helper()
	for _, l := range r.inlet.Listeners() {
		if l.Protocol.String() != protocol {
			continue
		}
		if i--; i >= 0 {
			continue
		}
		network, target := l.Address.Network, l.Address.HostPort()
		if l.Address.IsUnix() {
			target = l.Address.Path
		}
		conn, err := net.Dial(network, target)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	t.Fatalf("no such listener of %s", protocol)
	return nil
}

func write(t testing.TB, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Error(err)
	}
}

// balance fails the test unless the books of p balance, and returns them.
func balance(t testing.TB, p *Proxy) map[string]Books {
	t.Helper()
	all := p.Status().Lines
	for proto, b := range all {
		balanced(t, proto, b)
	}
	return all
}

// balanced fails the test unless b balances.
func balanced(t testing.TB, whose string, b Books) {
	t.Helper()
	dropped := uint64(0)
	for _, n := range b.Dropped {
		dropped += n
	}
	if b.Received+b.Adopted != b.Forwarded+dropped+b.Queued+b.Spooled {
		t.Errorf("%s: the books do not balance: %+v", whose, b)
	}
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// A sink is an upstream that keeps the lines it is sent.
type sink struct {
	t       testing.TB
	address Upstream
	lines   chan string
	packets chan string // of a UDP sink

	mu       sync.Mutex
	listener net.Listener
	packet   net.PacketConn
	conns    []net.Conn
}

func newSink(t testing.TB, network string) *sink {
	t.Helper()
	s := &sink{t: t, address: Upstream{Address: Address{Network: network, Host: "127.0.0.1", Port: sidebyside.FreePort(t)}}, lines: make(chan string, 1<<20), packets: make(chan string, 1<<16)}
	s.open()
	t.Cleanup(s.close)
	return s
}

// open listens; after a close, on the same port.
func (s *sink) open() {
	s.t.Helper()
	if s.address.Network == "udp" {
		conn, err := net.ListenPacket("udp", s.address.HostPort())
		if err != nil {
			s.t.Fatal(err)
		}
		conn.(*net.UDPConn).SetReadBuffer(4 << 20)
		s.packet = conn
		go s.receive(conn)
		return
	}
	l, err := net.Listen("tcp", s.address.HostPort())
	if err != nil {
		s.t.Fatal(err)
	}
	s.listener = l
	go s.accept(l)
}

func (s *sink) accept(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		go s.read(conn)
	}
}

func (s *sink) read(conn net.Conn) {
	defer conn.Close()
	r := bufio.NewReaderSize(conn, 1<<20)
	for {
		ln, err := r.ReadString('\n')
		if err != nil {
			return // a line without an end is no line
		}
		s.lines <- ln[:len(ln)-1]
	}
}

func (s *sink) receive(conn net.PacketConn) {
	buf := make([]byte, 1<<16)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		if n == 0 {
			continue // a probe
		}
		s.packets <- string(buf[:n])
		for ln := range strings.Lines(string(buf[:n])) {
			s.lines <- strings.TrimSuffix(ln, "\n")
		}
	}
}

// close stops listening and resets the connections.
func (s *sink) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.packet != nil {
		s.packet.Close()
	}
	if s.listener != nil {
		s.listener.Close()
	}
	for _, c := range s.conns {
		c.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	s.conns = nil
}

// next returns the next n lines.
func (s *sink) next(n int) []string {
	s.t.Helper()
	var got []string
	late := time.After(patience)
	for len(got) < n {
		select {
		case ln := <-s.lines:
			got = append(got, ln)
		case <-late:
			s.t.Fatalf("%d of %d lines came: %q", len(got), n, got[:min(len(got), 20)])
		}
	}
	return got
}

// expect fails the test unless the next lines are these.
func (s *sink) expect(want ...string) {
	s.t.Helper()
	if got := s.next(len(want)); !slices.Equal(got, want) {
		s.t.Fatalf("got %q, want %q", got, want)
	}
}

// until takes lines until this one comes: what a young connection took comes again
// on the next.
func (s *sink) until(want string) {
	s.t.Helper()
	for ln := s.next(1)[0]; ln != want; ln = s.next(1)[0] {
	}
}

// none fails the test if a line has come.
func (s *sink) none() {
	s.t.Helper()
	select {
	case ln := <-s.lines:
		s.t.Fatalf("got %q, want nothing", ln)
	default:
	}
}

// syncBuffer is a stdout that tests read.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// socketPath returns a path short enough for a unix socket.
func socketPath(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir + "/" + name
}

// numbered returns lines host.<tag>.<i> as one text.
func numbered(format string, from, to int) string {
	var b strings.Builder
	for i := from; i < to; i++ {
		fmt.Fprintf(&b, format+"\n", i)
	}
	return b.String()
}
