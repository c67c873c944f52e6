package outlet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A fakeNet has servers that do what a test says, by resolved address.
type fakeNet struct {
	mu      sync.Mutex
	servers map[string]*fakeServer
	names   map[string][]netip.Addr
	rotates bool          // a name has one of its addresses at a time
	needs   time.Duration // to look up a name
	silent  bool          // name servers are down
	only4   bool          // nobody answers a question for IPv6 addresses
	asks    int           // how often it was asked
}

// asked returns how often a name was looked up.
func (n *fakeNet) asked() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asks
}

// A fakeServer is one of them. Fields may be changed while it runs.
type fakeServer struct {
	mu      sync.Mutex
	dialErr error         // it can't be reached
	needs   time.Duration // to connect
	hangUp  time.Duration // it ends connections after so long, if endErr is set
	endErr  error
	stall   bool          // it takes nothing
	half    bool          // it stalls when it has taken half a line
	unread  bool          // its kernel takes, and acknowledges nothing
	cutOff  bool          // its host does not answer, either
	silence time.Duration // for how long it has not then; 0: stallTime
	full    time.Duration // for how long its kernel has had no room
	mute    bool          // its kernel takes all, and nobody reads it: it does not close what we close
	single  bool          // it serves one connection at a time
	picky   bool          // it hangs up when it gets something
	refuses time.Duration // it refuses what it gets, that later; 0: it doesn't
	reads   bool          // it goes on to, after link.ErrClosed
	hang    chan struct{} // writes to it return when this is closed
	dials   []time.Time
	got     []string // lines
	links   []*fakeLink
}

func newNet(ats ...string) *fakeNet {
	n := &fakeNet{servers: map[string]*fakeServer{}, names: map[string][]netip.Addr{}}
	for _, at := range ats {
		n.servers[at] = &fakeServer{}
	}
	return n
}

func (n *fakeNet) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	needs := n.needs
	if n.only4 && network != "ip4" {
		needs = never
	}
	if !retry.Sleep(ctx, needs) {
		return nil, context.Cause(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asks++
	ips := n.names[host]
	switch {
	case n.silent:
		return nil, &net.DNSError{Err: "server misbehaving", Name: host, IsTemporary: true}
	case len(ips) == 0:
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	case n.rotates:
		n.names[host] = append(ips[1:], ips[0])
		ips = ips[:1]
	}
	return slices.Clone(ips), nil
}

func (n *fakeNet) name(host string, ips ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[host] = nil
	for _, ip := range ips {
		n.names[host] = append(n.names[host], netip.MustParseAddr(ip))
	}
}

func (n *fakeNet) Dial(ctx context.Context, _ address.Upstream, at string, way link.Way) (link.Link, error) {
	s := n.servers[at]
	if s == nil {
		return nil, fmt.Errorf("no server at %s", at)
	}
	s.mu.Lock()
	s.dials = append(s.dials, time.Now())
	needs, dialErr := s.needs, s.dialErr
	l := &fakeLink{server: s, small: way.Small, full: s.full, ended: make(chan error, 2)}
	s.links = append(s.links, l)
	if s.endErr != nil {
		err := s.endErr
		sidebyside.After(s.hangUp, func() { l.end(err) })
	}
	s.mu.Unlock()
	if !retry.Sleep(ctx, needs) {
		return nil, errors.New("i/o timeout")
	}
	return l, dialErr
}

// set changes how a server behaves.
func (s *fakeServer) set(f func(s *fakeServer)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f(s)
}

func (s *fakeServer) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

func (s *fakeServer) attempts() []time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.dials)
}

// sessions returns how many connections brought lines.
func (s *fakeServer) sessions() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.links {
		if l.taken > 0 {
			n++
		}
	}
	return n
}

// last is the last connection.
func (s *fakeServer) last() *fakeLink {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[len(s.links)-1]
}

// A fakeLink is a connection to a fakeServer.
type fakeLink struct {
	server *fakeServer
	small  bool // in small packets
	ended  chan error
	err    error  // how the server ended it
	taken  uint64 // bytes
	tail   []byte // of them, behind the last line
	wrote  time.Time
	acked  uint64        // of them
	full   time.Duration // the server's, when it began
	gone   string        // how we ended it: "closed" or "reset"
}

// end ends the connection, as the server does.
func (l *fakeLink) end(err error) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if l.err == nil {
		l.err = err
		l.ended <- err
	}
}

func (l *fakeLink) Write(lines []byte, limit time.Duration) (int, error) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	switch {
	case l.err != nil && !(errors.Is(l.err, link.ErrClosed) && l.server.reads):
		return 0, syscall.EPIPE
	case l.server.picky:
		l.err = link.ErrClosed
		l.ended <- link.ErrClosed
		return len(lines), nil
	case l.server.hang != nil:
		hang := l.server.hang
		l.server.mu.Unlock()
		<-hang
		l.server.mu.Lock()
	case l.server.stall:
		l.server.mu.Unlock()
		<-time.After(limit)
		l.server.mu.Lock()
		return 0, nil
	}
	if l.server.refuses > 0 {
		time.AfterFunc(l.server.refuses, func() { l.end(syscall.ECONNREFUSED) })
		l.taken += uint64(len(lines))
		return len(lines), nil
	}
	if l.server.half {
		lines, l.server.half, l.server.stall = lines[:bytes.IndexByte(lines, '\n')/2], false, true
	}
	l.tail = append(l.tail, lines...)
	for ln, rest, ok := bytes.Cut(l.tail, []byte("\n")); ok; ln, rest, ok = bytes.Cut(rest, []byte("\n")) {
		l.server.got, l.tail = append(l.server.got, string(ln)), rest
	}
	l.taken, l.wrote = l.taken+uint64(len(lines)), time.Now()
	return len(lines), nil
}

func (l *fakeLink) Look() (Peer, error) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	if !l.server.unread {
		l.acked = l.taken
	}
	if l.server.refuses > 0 || errors.Is(l.err, syscall.ECONNREFUSED) {
		return Peer{Acked: l.acked}, l.err
	}
	if l.server.cutOff {
		return Peer{Acked: l.acked, Silence: max(stallTime, l.server.silence)}, nil
	}
	return Peer{Acked: l.acked, Heard: time.Since(l.wrote), Full: l.server.full - l.full}, nil
}

func (l *fakeLink) Watch() ([]byte, error) {
	return nil, <-l.ended
}

func (l *fakeLink) Bound(time.Duration) error { return nil }
func (l *fakeLink) Narrow(bool)               {}
func (l *fakeLink) Close()                    { l.part("closed") }
func (l *fakeLink) Reset()                    { l.part("reset") }

func (l *fakeLink) CloseWrite() (bool, error) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	first := slices.IndexFunc(l.server.links, func(l *fakeLink) bool { return l.gone == "" })
	waits := l.server.single && l != l.server.links[first]
	if !l.server.stall && !l.server.unread && !l.server.mute && !waits && l.err == nil {
		l.err = link.ErrClosed
		l.ended <- link.ErrClosed
	}
	return l.server.unread || l.server.mute || waits, nil
}

func (l *fakeLink) part(how string) {
	l.server.mu.Lock()
	defer l.server.mu.Unlock()
	l.gone = how
	select {
	case l.ended <- nil:
	default:
	}
}

// parted says how we ended the i-th connection; "": we have not.
func (s *fakeServer) parted(i int) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.links[i].gone
}

// A fakeSource has lines, each of which it gives away once it is acknowledged, and
// again if it is not.
type fakeSource struct {
	mu     sync.Mutex
	lines  []string // the oldest first
	mid    int      // bytes of the first that were written
	sent   []string // of this session
	writes int
	ends   []Ending
	ended  time.Time // when the last session did, as was said
	wrote  int       // bytes of this session
	acked  int       // of them
	doubt  int       // bytes of the last session that were not acknowledged when it ended
	closed bool
	left   func() time.Duration // nil: lines are sent again
	leaves []*fakeLeaving
	again  time.Duration // it is in doubt whether lines are delivered
	keep   time.Duration // the session must not be ended
	ackErr error
	hasty  bool // what is not acknowledged must not leave
	more   chan struct{}
}

func newSource() *fakeSource { return &fakeSource{more: make(chan struct{}, 1)} }

func (s *fakeSource) put(lines ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lines = append(s.lines, lines...)
	s.wake()
}

func (s *fakeSource) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake()
}

func (s *fakeSource) wake() {
	select {
	case s.more <- struct{}{}:
	default:
	}
}

func (s *fakeSource) Begin(time.Time, Session) {}

func (s *fakeSource) Next(time.Time) ([]byte, time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.lines) == 0 && s.closed {
		return nil, 0, ErrDrained
	}
	var b []byte
	for _, ln := range s.lines {
		b = append(append(b, ln...), '\n')
	}
	return b[s.mid:], 0, nil
}

func (s *fakeSource) Wrote(_ time.Time, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mid += n
	s.wrote += n
	s.writes++
	for ; len(s.lines) > 0 && s.mid > len(s.lines[0]); s.lines = s.lines[1:] {
		s.mid -= len(s.lines[0]) + 1
		s.sent = append(s.sent, s.lines[0])
	}
}

// gone returns how many lines it has given away.
func (s *fakeSource) gone() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.sent)
}

func (s *fakeSource) Refuse(int) {}

func (s *fakeSource) Ack(_ time.Time, peer Peer) (Due, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acked = int(peer.Acked); s.hasty && s.acked < s.wrote {
		return Due{}, ErrRevoked
	}
	return Due{Again: s.again, Keep: s.keep}, s.ackErr
}

// doubts says how long it is in doubt whether lines are delivered.
func (s *fakeSource) doubts(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.again = d
}

// keeps says that sessions must not be ended for their age, or that they may be.
func (s *fakeSource) keeps(is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keep = 0; is {
		s.keep = 21 * time.Second
	}
}

// sendsOnce makes it send no line again; what a session leaves may leave for so long.
func (s *fakeSource) sendsOnce(left func() time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.left = left
}

func (s *fakeSource) Repeats() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.left == nil
}

func (s *fakeSource) Leave() (Leaving, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &fakeLeaving{left: s.left}
	s.leaves = append(s.leaves, l)
	var rest []byte
	if s.mid > 0 {
		rest = []byte(s.lines[0][s.mid:] + "\n")
		s.lines, s.mid = s.lines[1:], 0
	}
	return l, rest
}

// A fakeLeaving is what a session of a fakeSource has left.
type fakeLeaving struct {
	left  func() time.Duration
	acked atomic.Uint64
	ended atomic.Bool
}

func (l *fakeLeaving) Left() time.Duration { return l.left() }
func (l *fakeLeaving) Ack(acked uint64)    { l.acked.Store(acked) }
func (l *fakeLeaving) End()                { l.ended.Store(true) }

func (s *fakeSource) End(now time.Time, how Ending) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends, s.ended = append(s.ends, how), now
	s.doubt, s.wrote, s.acked = s.wrote-s.acked, 0, 0
	if s.mid > 0 {
		s.lines, s.mid = s.lines[1:], 0
	}
}

func (s *fakeSource) endings() []Ending {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.ends)
}

func (s *fakeSource) Expire(time.Time) (time.Duration, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed && len(s.lines) == 0 {
		return 0, ErrDrained
	}
	return 0, nil
}

func (s *fakeSource) More() <-chan struct{}     { return s.more }
func (s *fakeSource) HasBacklog(time.Time) bool { return false }
func (s *fakeSource) Lost() uint64              { return 0 }

// endingSource tells of each end of a session.
type endingSource struct {
	*fakeSource
	ended chan Ending
}

func (s endingSource) End(_ time.Time, how Ending) { s.ended <- how }

// sendTo runs an outlet that sends to a real server what s has. stop ends it.
func (s endingSource) sendTo(t *testing.T, to string) (stop func()) {
	o := New(Config{To: addresses(t, to)}, Options{Source: s, Log: discard, Dialer: link.Dialer{}})
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { o.Run(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// A rig is an outlet at work, in a bubble of synctest.
type rig struct {
	*Outlet
	net    *fakeNet
	source *fakeSource
	follow atomic.Bool // others add right behind
	log    *bytes.Buffer
	sent   int
	stop   func()
	ended  chan struct{}
}

// run runs an outlet to servers in a bubble, and then f.
func run(t *testing.T, net *fakeNet, to []string, f func(t *testing.T, r *rig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{net: net, source: newSource(), log: &bytes.Buffer{}}
		r.Outlet = New(Config{To: addresses(t, to...), MaxDatagram: 1432}, Options{
			Source: r.source, Log: slog.New(slog.NewTextHandler(r.log, nil)), Dialer: net, Resolver: net, Follow: r.follow.Load,
		})
		ctx, cancel := context.WithCancel(t.Context())
		r.stop = cancel
		r.ended = make(chan struct{})
		go func() {
			defer close(r.ended)
			r.Run(ctx)
		}()
		f(t, r)
		cancel()
		<-r.ended
	})
}

func addresses(t *testing.T, texts ...string) (to []address.Upstream) {
	for _, text := range texts {
		a, err := address.ParseUpstream(text)
		if err != nil {
			t.Fatal(err)
		}
		to = append(to, a)
	}
	return to
}

// send sends a line every 100 ms for some time.
func (r *rig) send(d time.Duration) {
	for range d / (100 * time.Millisecond) {
		r.source.put(fmt.Sprintf("n%d", r.sent))
		r.sent++
		sidebyside.Pass(100 * time.Millisecond)
	}
	synctest.Wait()
}

// logged counts the lines of the log that hold all of words.
func (r *rig) logged(words ...string) (n int) {
	synctest.Wait()
	for ln := range strings.Lines(r.log.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(ln, w) }) {
			n++
		}
	}
	return n
}
