package proxy

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// A supervisor binds sockets and keeps them, as systemd does.
type supervisor struct {
	t     testing.TB
	files []*os.File
}

// listen binds a socket, and keeps a descriptor of it alone.
func (s *supervisor) listen(network, where string) Address {
	s.t.Helper()
	var socket interface {
		File() (*os.File, error)
		Close() error
	}
	var at net.Addr
	switch network {
	case "udp", "unixgram":
		conn, err := net.ListenPacket(network, where)
		if err != nil {
			s.t.Fatal(err)
		}
		socket, at = conn.(interface {
			File() (*os.File, error)
			Close() error
		}), conn.LocalAddr()
	default:
		l, err := net.Listen(network, where)
		if err != nil {
			s.t.Fatal(err)
		}
		if u, ok := l.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false)
		}
		socket, at = l.(interface {
			File() (*os.File, error)
			Close() error
		}), l.Addr()
	}
	f, err := socket.File()
	if err != nil {
		s.t.Fatal(err)
	}
	socket.Close()
	s.files = append(s.files, f)
	s.t.Cleanup(func() { f.Close() })
	a := Address{Network: network, Path: where}
	if !a.IsUnix() {
		if a, err = address.Parse(network + "://" + at.String()); err != nil {
			s.t.Fatal(err)
		}
	}
	return a
}

// pass returns the descriptors for one process.
func (s *supervisor) pass() (passed []*os.File) {
	s.t.Helper()
	for _, f := range s.files {
		fd, err := unix.Dup(int(f.Fd()))
		if err != nil {
			s.t.Fatal(err)
		}
		passed = append(passed, os.NewFile(uintptr(fd), "passed"))
	}
	return passed
}

// Passed sockets are used where a listener is configured at their address,
// whatever their order. They outlive the proxy: what is sent while there is none
// is found by the next one.
func TestPassedSockets(t *testing.T) {
	t.Parallel()
	s := &supervisor{t: t}
	var cfg Config
	{
		carbon, statsd, gram, stream := s.listen("tcp", "127.0.0.1:0"), s.listen("udp", "127.0.0.1:0"), s.listen("unixgram", socketPath(t, "g")), s.listen("unix", socketPath(t, "s"))
		six := s.listen("tcp", "[::1]:0")
		cfg = testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
		cfg.Listen.StatsD = []Address{gram, statsd}
		cfg.Listen.Carbon = []Address{six, stream, carbon}
	}
	out := &syncBuffer{}
	run := func() *running {
		return startWith(t, cfg, holding("Denali"), Options{Stdout: out, Sockets: s.pass()})
	}
	send := func(a Address, text string) {
		t.Helper()
		target := a.Path
		if !a.IsUnix() {
			target = a.HostPort()
		}
		conn, err := net.Dial(a.Network, target)
		if err != nil {
			t.Fatalf("dial %s: %v", a, err)
		}
		defer conn.Close()
		write(t, conn, text)
	}
	sendAll := func(word string) {
		for _, a := range cfg.Listen.StatsD {
			send(a, "host."+word+"."+a.Network+":1|c\n")
		}
		for _, a := range cfg.Listen.Carbon {
			send(a, "host."+word+"."+a.Network+" 1 1700000000\n")
		}
	}
	arrived := func(word string) func() bool {
		return func() bool { return strings.Count(out.String(), "Denali."+word+".") == 5 }
	}

	first := run()
	for _, l := range first.inlet.Listeners() {
		if !l.Inherited {
			t.Errorf("%s was bound anew", l.Address)
		}
	}
	sendAll("first")
	eventually(t, "lines through passed sockets", arrived("first"))
	first.stop()
	sendAll("between")
	second := run()
	eventually(t, "lines that were sent to nobody", arrived("between"))
	sendAll("second")
	eventually(t, "lines through the sockets of the second", arrived("second"))
	balance(t, second.Proxy)
}

// localhost stands for two sockets: the one that was not passed is bound.
func TestPassedHalfOfLocalhost(t *testing.T) {
	s := &supervisor{t: t}
	a := s.listen("tcp", "127.0.0.1:0")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	a.Host = "localhost"
	cfg.Listen.Carbon = []Address{a}
	cfg.Listen.StatsD = nil
	p := startWith(t, cfg, holding("Denali"), Options{Stdout: io.Discard, Sockets: s.pass()})
	for _, l := range p.inlet.Listeners() {
		if want := l.Address.Host == "127.0.0.1"; l.Inherited != want || l.Address.Port != a.Port {
			t.Errorf("%s: passed %v, want %v and port %d", l.Address, l.Inherited, want, a.Port)
		}
	}
	if n := len(p.inlet.Listeners()); n != 2 {
		t.Errorf("%d sockets, want 2", n)
	}
}

// A passed socket that nothing is configured for would let senders wait for ever.
func TestUnwantedSocket(t *testing.T) {
	s := &supervisor{t: t}
	unwanted := s.listen("tcp", "127.0.0.1:0")
	p, err := New(testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}}), holding("Denali"), Options{Sockets: s.pass()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Bind(t.Context()); !errors.Is(err, ErrUnwantedSocket) || !strings.Contains(err.Error(), unwanted.String()) {
		t.Errorf("Bind: %v, want an error that names %s", err, unwanted)
	}
}

// One that is in the way of a listener is to blame, and not another process.
func TestUnwantedSocketInTheWay(t *testing.T) {
	s := &supervisor{t: t}
	wide := s.listen("udp", ":0")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	cfg.Listen.StatsD = []Address{{Network: "udp", Host: "127.0.0.1", Port: wide.Port}}
	p, err := New(cfg, holding("Denali"), Options{Sockets: s.pass()})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Bind(t.Context()); !errors.Is(err, ErrUnwantedSocket) {
		t.Errorf("Bind: %v, want %v", err, ErrUnwantedSocket)
	}
}

// What is no bound socket is refused.
func TestPassedNoSocket(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	p, err := New(testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}}), holding("Denali"), Options{Sockets: []*os.File{r}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Bind(t.Context()); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("Bind: %v, want %v", err, unix.ENOTSOCK)
	}
}

// The kernel's count of a passed socket holds what it dropped before us.
func TestPassedSocketsDrops(t *testing.T) {
	s := &supervisor{t: t}
	a := s.listen("udp", "127.0.0.1:0")
	fd := int(s.files[0].Fd())
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("udp", a.HostPort())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for range 100 {
		write(t, conn, "host.a:1|c\n")
	}
	if n, err := sockets.Drops(fd); err != nil || n == 0 {
		t.Fatalf("the kernel dropped %d, %v", n, err)
	}
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	cfg.Listen.StatsD = []Address{a}
	p := startWith(t, cfg, holding("Denali"), Options{Stdout: io.Discard, Sockets: s.pass()})
	l := p.inlet.Listeners()[0]
	if n, err := l.KernelDrops(); err != nil || n != 0 {
		t.Errorf("%d drops are ours, %v", n, err)
	}
	if l.ReceiveBuffer < 64<<10 {
		t.Errorf("a receive buffer of %d bytes, which did not grow", l.ReceiveBuffer)
	}
}

// What waits to be accepted at the end is taken.
func TestBacklogAtTheEnd(t *testing.T) {
	out := &syncBuffer{}
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	cfg.Listen.Carbon = append(cfg.Listen.Carbon, Address{Network: "unix", Path: socketPath(t, "s")})
	p, err := New(cfg, holding("Denali"), Options{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	const each = 50
	for i := range each {
		for at, network := range []string{"carbon", "carbon"} {
			conn := (&running{Proxy: p}).dial(t, network, 2*at)
			write(t, conn, numbered("host.n%d 1 1700000000", i, i+1))
			conn.Close()
		}
	}
	ctx, end := context.WithCancel(t.Context())
	end()
	if err := p.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(out.String(), "Denali.n"); n != 2*each {
		t.Errorf("%d lines came of %d", n, 2*each)
	}
}

// More connections may have waited for a restart than may be open at once. What
// they have brought is taken all the same, as the first ones are idle.
func TestBacklogOverTheLimit(t *testing.T) {
	t.Parallel()
	s := &supervisor{t: t}
	carbon := newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	a := s.listen("tcp", "127.0.0.1:0")
	cfg.Listen.Carbon = []Address{a}
	cfg.Listen.MaxConnections = 50
	const conns = 100
	for i := range conns {
		conn, err := net.Dial("tcp", a.HostPort())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		write(t, conn, numbered("host.n%d 1 1700000000", i, i+1))
	}
	p := startWith(t, cfg, holding("Denali"), Options{Stdout: io.Discard, Sockets: s.pass()})
	carbon.next(conns)
	balance(t, p.Proxy)
}
