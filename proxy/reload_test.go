package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/internal/store"
	"github.com/prefixproxy/prefixproxy/membership"
)

func reloaded(t testing.TB, p *running, cfg Config) {
	t.Helper()
	if err := p.Reload(cfg); err != nil {
		t.Fatalf("Reload: %v", err)
	}
}

// isOpen says whether somebody listens at a.
func isOpen(a Address) bool {
	conn, err := net.Dial(a.Network, a.HostPort())
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// A listener that stays keeps its socket and its connections while others come
// and go.
func TestReloadListeners(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	p := start(t, cfg, holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	write(t, conn, "host.first 1 1700000000\nhost.sec")
	carbon.expect("Denali.first 1 1700000000")
	before := p.inlet.Listeners()

	more := cfg
	more.Listen.Carbon = append(slices.Clone(cfg.Listen.Carbon), Address{Network: "tcp", Host: "localhost"})
	more.Listen.StatsD = cfg.Listen.StatsD[1:]
	reloaded(t, p, more)
	after := p.inlet.Listeners()
	for i, l := range before[1:] {
		if after[i] != l {
			t.Errorf("%s was bound anew", l.Address)
		}
	}
	if _, err := before[0].KernelDrops(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("%s is still open", before[0].Address)
	}
	if n := len(after); n != 5 {
		t.Fatalf("%d sockets, want 5", n)
	}
	write(t, p.dial(t, "carbon", 3), "host.added 1 1700000000\n")
	carbon.expect("Denali.added 1 1700000000")
	write(t, conn, "ond 1 1700000000\n")
	carbon.expect("Denali.second 1 1700000000")

	reloaded(t, p, cfg)
	if a := after[4].Address; isOpen(a) {
		t.Errorf("%s is still open", a)
	}
	write(t, conn, "host.third 1 1700000000\n")
	carbon.expect("Denali.third 1 1700000000")
	balance(t, p.Proxy)
}

// What has reached a listener that goes is taken.
func TestReloadTakesWhatHasArrived(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	cfg.Listen.Carbon = append(cfg.Listen.Carbon, Address{Network: "tcp", Host: "127.0.0.1", Port: 0})
	cfg.Listen.Carbon[2].Host = "localhost"
	p := start(t, cfg, holding("Denali"))
	const conns = 50
	for i := range conns {
		conn := p.dial(t, "carbon", 2)
		write(t, conn, numbered("host.n%d 1 1700000000", i, i+1))
		conn.Close()
	}
	cfg.Listen.Carbon = cfg.Listen.Carbon[:2]
	reloaded(t, p, cfg)
	carbon.next(conns)
	if b := balance(t, p.Proxy)["carbon"]; b.Received != conns {
		t.Errorf("%d lines received, want %d", b.Received, conns)
	}
}

// Lines that wait go to the upstream that is configured now. The books of the
// earlier one stay.
func TestReloadUpstreams(t *testing.T) {
	t.Parallel()
	statsd, carbon := newSink(t, "udp"), newSink(t, "tcp")
	cfg := testConfig(statsd.address, carbon.address)
	p := start(t, cfg, holding("Denali"))
	toStatsD, toCarbon := p.dial(t, "statsd", 0), p.dial(t, "carbon", 0)
	write(t, toStatsD, "host.a:1|c\n")
	write(t, toCarbon, "host.a 1 1700000000\n")
	statsd.expect("Denali.a:1|c")
	carbon.expect("Denali.a 1 1700000000")
	eventually(t, "the first lines are booked", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == 1 })
	carbon.close()
	statsd.close()
	write(t, toStatsD, "host.b:1|c\n")
	write(t, toCarbon, "host.b 1 1700000000\n")
	eventually(t, "a line waits", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 1 })

	otherStatsD, otherCarbon := newSink(t, "tcp"), newSink(t, "tcp")
	cfg.Forward.StatsD.To = []Upstream{otherStatsD.address}
	cfg.Forward.Carbon[0].To = []Upstream{otherCarbon.address}
	reloaded(t, p, cfg)
	otherCarbon.until("Denali.b 1 1700000000")
	write(t, toStatsD, "host.c:1|c\n")
	write(t, toCarbon, "host.c 1 1700000000\n")
	otherCarbon.expect("Denali.c 1 1700000000")
	for otherStatsD.next(1)[0] != "Denali.c:1|c" { // host.b may have been sent while it went down
	}
	eventually(t, "all is booked", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 0 })
	_, accounts := p.carbon.accounts()
	for upstream, want := range map[string]uint64{carbon.address.String(): 1, otherCarbon.address.String(): 2} {
		if got := accounts[0].forwarded[upstream]; got != want {
			t.Errorf("%s: %d lines forwarded, want %d", upstream, got, want)
		}
	}
	for _, u := range p.Status().Upstreams {
		if !u.Up {
			t.Errorf("%s is not up", u.Address)
		}
	}
}

// How StatsD is counted changes with a reload, and with the next.
func TestReloadOfPoints(t *testing.T) {
	t.Parallel()
	cfg := testConfig(Upstream{Address: Address{Network: "carbon"}}, Upstream{Address: Address{Network: "stdout"}})
	cfg.Rewrite.Unmatched = line.DropUnmatched
	for _, reloads := range [][]aggregate.Layout{{aggregate.StatsD}, {aggregate.StatsD, aggregate.Legacy}} {
		var out syncBuffer
		p := startWith(t, cfg, holding("Denali"), Options{Stdout: &out})
		to := cfg
		to.Aggregate.Tags, to.Aggregate.Interval = aggregate.DropTags, 7*time.Second
		for _, to.Aggregate.Layout = range reloads {
			reloaded(t, p, to)
		}
		write(t, p.dial(t, "statsd", 0), "host.x:1|c|#a:b")
		eventually(t, "a line is counted", func() bool { return balance(t, p.Proxy)["statsd"].Queued == 1 })
		p.stop()
		var path, value string
		var second int
		fmt.Sscan(out.String(), &path, &value, &second)
		want := map[aggregate.Layout]string{aggregate.StatsD: "stats.counters.Denali.x.count", aggregate.Legacy: "stats.Denali.x"}
		if path != want[to.Aggregate.Layout] || second%7 != 0 {
			t.Errorf("got %q, want points of %s, and slots of 7 s", out.String(), want[to.Aggregate.Layout])
		}
	}
}

// One destination that had no name, and gets one in a list, keeps its place and its
// session: two would send the same lines, and count each other's.
func TestReloadToSeveralDestinations(t *testing.T) {
	t.Parallel()
	carbon, other := newSink(t, "tcp"), newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	p := start(t, cfg, holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	alone := cfg.Forward.Carbon[0]
	main, dr := alone, alone
	main.Name, dr.Name, dr.To = "main", "dr", []Upstream{other.address}
	first := p.outlets.all()[1].Outlet
	for i, to := range [][]CarbonForward{{alone}, {main, dr}, {dr, main}, {main}, {alone}} {
		cfg.Forward.Carbon = to
		reloaded(t, p, cfg)
		write(t, conn, fmt.Sprintf("host.a %d 1700000000\n", i))
		carbon.expect(fmt.Sprintf("Denali.a %d 1700000000", i))
		if len(to) > 1 { // before it is removed
			other.expect(fmt.Sprintf("Denali.a %d 1700000000", i))
		}
		i := slices.IndexFunc(p.outlets.all(), func(d *destination) bool { return d.Outlet == first })
		if i < 0 || p.outlets.all()[i].name == dr.Name {
			t.Errorf("%v: sent by another outlet", to)
		}
	}
}

// The session with an upstream that works ends in order: nothing is lost.
func TestReloadFromAnUpstreamThatWorks(t *testing.T) {
	t.Parallel()
	first, second := newSink(t, "tcp"), newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, first.address)
	p := start(t, cfg, holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	const lines = 20_000
	write(t, conn, numbered("host.n%d 1 1700000000", 0, lines))
	got := first.next(1)
	cfg.Forward.Carbon[0].To = []Upstream{second.address}
	reloaded(t, p, cfg)
	write(t, conn, "host.last 1 1700000000\n")
	last := ""
	for last != "Denali.last 1 1700000000" {
		last = second.next(1)[0]
		got = append(got, last)
	}
	eventually(t, "all is acknowledged", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 0 })
	for len(first.lines) > 0 {
		got = append(got, <-first.lines)
	}
	slices.Sort(got)
	if got = slices.Compact(got); len(got) != lines+1 {
		t.Errorf("%d different lines came, want %d", len(got), lines+1)
	}
}

// An upstream that has not read what its kernel has taken may read it to the end.
func TestReloadEndsTheSessionGracefully(t *testing.T) {
	t.Parallel()
	slow, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "tcp", Host: "127.0.0.1", Port: slow.Addr().(*net.TCPAddr).Port}})
	p := start(t, cfg, holding("Denali"))
	peer, err := slow.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	const lines = 1000
	write(t, p.dial(t, "carbon", 0), numbered("host.n%d 1 1700000000", 0, lines))
	eventually(t, "the kernel has all", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == lines })
	cfg.Forward.Carbon[0].To = []Upstream{newSink(t, "tcp").address}
	reloaded(t, p, cfg)
	eventually(t, "the other upstream", func() bool {
		all := p.Status().Upstreams
		return all[len(all)-1].Up
	})
	text, err := io.ReadAll(peer)
	if n := strings.Count(string(text), "\n"); err != nil || n != lines {
		t.Errorf("%d lines and %v, want %d and the end", n, err, lines)
	}
}

// A protocol may get its first upstream by a reload, and lose its last.
func TestReloadFirstAndLastUpstream(t *testing.T) {
	t.Parallel()
	statsd, carbon := newSink(t, "udp"), newSink(t, "tcp")
	cfg := testConfig(statsd.address, carbon.address)
	alone := cfg
	alone.Listen.StatsD, alone.Forward.StatsD.To = nil, nil
	p := start(t, alone, holding("Denali"))
	for range 2 {
		reloaded(t, p, cfg)
		write(t, p.dial(t, "statsd", 0), "host.a:1|c\n")
		statsd.expect("Denali.a:1|c")
		reloaded(t, p, alone)
		if n := len(p.Status().Upstreams); n != 1 {
			t.Errorf("%d upstreams, want that of Carbon alone", n)
		}
	}
}

// Rules hold for lines that are named from now on. What was held is among them.
func TestReloadRules(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	names := holding("Denali")
	claim, _ := names.Current()
	p := start(t, cfg, names)
	conn := p.dial(t, "carbon", 0)
	write(t, conn, "host.a 1 1700000000\n")
	carbon.expect("Denali.a 1 1700000000")
	names.set(nil, membership.Claiming)
	write(t, conn, "host.b 1 1700000000\n")
	eventually(t, "a line is held", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 1 })
	cfg.Rewrite.To = "servers.{name}"
	cfg.Rewrite.Unmatched = line.PrefixUnmatched
	reloaded(t, p, cfg)
	names.set(claim, membership.Held)
	carbon.expect("servers.Denali.b 1 1700000000")
	write(t, conn, "other.c 1 1700000000\n")
	carbon.expect("servers.Denali.other.c 1 1700000000")
}

// A line that was named by earlier rules is still known to carry the name: it must not leave when
// the claim is lost.
func TestReloadKnowsEarlierPrefixes(t *testing.T) {
	names := holding("Denali")
	s := newSource(names, "Denali.a:1|c\nDenalix.a:1|c\n")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	n := newNaming(names, cfg.Rewrite)
	claim, _ := names.Current()
	s.hand.names = n.of(claim)
	rules := cfg.Rewrite
	rules.To = "servers.{name}"
	n.setRules(rules)
	if !n.of(claim).owns([]byte("servers.Denali.a:1|c")) {
		t.Error("a line by the new rules is not known to carry the name")
	}
	names.set(nil, membership.Claiming)
	if lines, _, err := s.mayLeave(time.Now()); string(lines) != "Denalix.a:1|c\n" || err != nil {
		t.Errorf("got %q, %v; want the line that is under no name", lines, err)
	}
}

// A reload that cannot be done whole changes nothing.
func TestReloadRefused(t *testing.T) {
	t.Parallel()
	taken := newSink(t, "tcp")
	carbon := newSink(t, "tcp")
	s := &supervisor{t: t}
	passed := s.listen("tcp", "127.0.0.1:0")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	cfg.Listen.Carbon = append(cfg.Listen.Carbon, passed)
	p := startWith(t, cfg, holding("Denali"), Options{Stdout: io.Discard, Sockets: s.pass()})
	conn := p.dial(t, "carbon", 0)
	before := p.Status()
	for _, tt := range []struct {
		what  string
		alter func(cfg *Config)
		is    func(err error) bool
		says  string
	}{
		{"an address that is taken", func(cfg *Config) {
			cfg.Listen.StatsD = []Address{{Network: "udp", Host: "127.0.0.1"}, Address{Network: taken.address.Network, Host: taken.address.Host, Port: taken.address.Port}}
		}, func(err error) bool { return errors.Is(err, unix.EADDRINUSE) }, taken.address.String()},
		{"an impossible value", func(cfg *Config) {
			cfg.Coalesce = time.Hour
		}, func(err error) bool { _, ok := errors.AsType[conf.Problems](err); return ok }, "coalesce"},
		{"a passed socket without a listener", func(cfg *Config) {
			cfg.Listen.Carbon = cfg.Listen.Carbon[:2]
		}, func(err error) bool { return errors.Is(err, ErrUnwantedSocket) }, passed.String()},
	} {
		t.Run(tt.what, func(t *testing.T) {
			other := cfg
			other.Rewrite.To = "refused.{name}"
			tt.alter(&other)
			if err := p.Reload(other); !tt.is(err) || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("Reload: %v, want an error that names %s", err, tt.says)
			}
			if now := p.Status(); !slices.Equal(now.Listeners, before.Listeners) {
				t.Errorf("listeners: got %v, want %v", now.Listeners, before.Listeners)
			}
			write(t, conn, "host.a 1 1700000000\n")
			carbon.expect("Denali.a 1 1700000000")
		})
	}
}

// What waits in a queue that becomes too small for it is not dropped for that.
func TestReloadSmallerQueue(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	carbon.close()
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	cfg.Forward.Carbon[0].Spool = 0
	p := start(t, cfg, holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	const lines = 100_000
	write(t, conn, numbered("host.n%d 1 1700000000", 0, lines))
	eventually(t, "lines wait", func() bool { return balance(t, p.Proxy)["carbon"].Queued == lines })
	cfg.Forward.Carbon[0].Queue = minQueue
	reloaded(t, p, cfg)
	write(t, conn, "host.more 1 1700000000\n")
	eventually(t, "one more", func() bool { return balance(t, p.Proxy)["carbon"].Received == lines+1 })
	b := balance(t, p.Proxy)["carbon"]
	if dropped := b.Dropped["queue_full"]; dropped > lines/50 {
		t.Errorf("%d lines dropped, for one that came", dropped)
	}
	carbon.open()
	carbon.next(int(b.Queued))
	eventually(t, "all is acknowledged", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 0 })
}

// The limit of connections holds from the next one on.
func TestReloadConnectionLimit(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	cfg.Listen.MaxConnections = 1
	p := start(t, cfg, holding("Denali"))
	first := p.dial(t, "carbon", 0)
	write(t, first, "host.a 1 1700000000\n")
	carbon.expect("Denali.a 1 1700000000")
	cfg.Listen.MaxConnections = 2
	reloaded(t, p, cfg)
	write(t, p.dial(t, "carbon", 0), "host.b 1 1700000000\n")
	carbon.expect("Denali.b 1 1700000000")
	write(t, first, "host.c 1 1700000000\n")
	carbon.expect("Denali.c 1 1700000000")
}

// A proxy that ends reloads no more.
func TestReloadAfterTheEnd(t *testing.T) {
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	p := start(t, cfg, holding("Denali"))
	p.stop()
	if err := p.Reload(cfg); err == nil {
		t.Error("it reloads")
	}
}

// Nor does one that drains, and who asks is told at once.
func TestReloadWhileItDrains(t *testing.T) {
	t.Parallel()
	at := fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	to, err := address.ParseUpstream("tcp://" + at)
	if err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, to)
	p := start(t, cfg, holding("Denali"))
	p.Proxy.drainTime = time.Hour
	write(t, p.dial(t, "carbon", 0), "host.a 1 1\n")
	eventually(t, "the line waits", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 1 })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		p.stop()
	}()
	eventually(t, "reloads are refused", func() bool { return errors.Is(p.Reload(cfg), errEnded) })
	select {
	case <-stopped:
		t.Error("not before the end")
	default:
	}
	l, err := net.Listen("tcp", at) // now it takes the line
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	<-stopped
}

// Nor does one that could not begin: what was asked for meanwhile keeps nobody waiting.
func TestReloadOfWhatCannotBegin(t *testing.T) {
	file := filepath.Join(t.TempDir(), "no directory")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	p, err := New(cfg, holding("Denali"), Options{Places: store.Places{State: file}})
	if err != nil {
		t.Fatal(err)
	}
	reloaded := make(chan error)
	go func() { reloaded <- p.Reload(cfg) }()
	if err := p.Run(t.Context()); err == nil {
		t.Error("it runs")
	}
	if err := <-reloaded; err == nil {
		t.Error("it reloads")
	}
}
