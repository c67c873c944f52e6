package proxy

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/membership"
)

// Every kind of listener takes lines of both protocols.
func TestListeners(t *testing.T) {
	t.Parallel()
	statsd, carbon := newSink(t, "tcp"), newSink(t, "tcp")
	cfg := testConfig(statsd.address, carbon.address)
	all := func(tag string) []Address {
		as := []Address{
			{Network: "udp", Host: "127.0.0.1"}, {Network: "tcp", Host: "127.0.0.1"},
			{Network: "unixgram", Path: socketPath(t, tag+"g"), Mode: 0o622}, {Network: "unix", Path: socketPath(t, tag), Mode: 0o666},
		}
		if hasIPv6() {
			as = append(as, Address{Network: "udp", Host: "::1"}, Address{Network: "tcp", Host: "::1"})
		}
		return as
	}
	cfg.Listen.StatsD, cfg.Listen.Carbon = all("s"), all("c")
	p := start(t, cfg, holding("Denali"))
	for i, a := range cfg.Listen.StatsD {
		write(t, p.dial(t, "statsd", i), fmt.Sprintf("host.s%d:1|c\n", i))
		statsd.expect(fmt.Sprintf("Denali.s%d:1|c", i))
		write(t, p.dial(t, "carbon", i), fmt.Sprintf("host.c%d  1\t1700000000\n", i))
		carbon.expect(fmt.Sprintf("Denali.c%d 1 1700000000", i))
		if a.IsUnix() {
			info, err := os.Stat(a.Path)
			if err != nil || info.Mode().Perm() != os.FileMode(a.Mode) {
				t.Errorf("%s: mode %v, %v", a, info.Mode(), err)
			}
		}
	}
	p.stop()
	balance(t, p.Proxy)
	for _, a := range cfg.Listen.StatsD {
		if _, err := os.Stat(a.Path); a.IsUnix() && err == nil {
			t.Errorf("%s is left behind", a.Path)
		}
	}
}

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}

// A stream is cut into lines wherever reads end; a tail without end is dropped
// and counted; a bad line costs no neighbour.
func TestStream(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	p := start(t, testConfig(carbon.address, carbon.address), holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	for _, part := range []string{"host.a 1 17", "00000000\nhos", "t.b 2 1700000000\r\n\nbad line\nhost.\xff 1 1\n", "host.c 3 1700000000\nhost.d 1234 170"} {
		write(t, conn, part)
	}
	conn.Close()
	carbon.expect("Denali.a 1 1700000000", "Denali.b 2 1700000000", "Denali.c 3 1700000000")
	eventually(t, "the tail is dropped", func() bool { return balance(t, p.Proxy)["carbon"].Dropped["unterminated"] == 1 })
	got := balance(t, p.Proxy)["carbon"]
	if got.Received != 6 || got.Dropped["bad_fields"] != 1 || got.Dropped["bad_utf8"] != 1 {
		t.Errorf("got %+v", got)
	}
	bad := p.BadLines()
	if len(bad) != 3 || bad[0].Reason != "unterminated" || string(bad[0].Line) != "host.d 1234 170" || bad[0].Peer != conn.LocalAddr().String() {
		t.Errorf("bad lines: %v", bad)
	}
	carbon.none()
}

// The last line of a datagram may lack its end, or the second half of that.
func TestEndOfDatagram(t *testing.T) {
	t.Parallel()
	sink := newSink(t, "tcp")
	p := start(t, testConfig(sink.address, sink.address), holding("Denali"))
	for i, end := range []string{"", "\r", "\n", "\r\n"} {
		write(t, p.dial(t, "statsd", 0), fmt.Sprintf("host.a%d:1|c\r\nhost.b%d:1|c%s", i, i, end))
		sink.expect(fmt.Sprintf("Denali.a%d:1|c", i), fmt.Sprintf("Denali.b%d:1|c", i))
	}
}

// A line longer than a block is dropped once, and the next line is whole.
func TestStreamLineTooLong(t *testing.T) {
	t.Parallel()
	sink := newSink(t, "tcp")
	p := start(t, testConfig(sink.address, sink.address), holding("Denali"))
	conn := p.dial(t, "statsd", 1)
	write(t, conn, "host.a:1|c\nhost."+strings.Repeat("x", 5*64<<10)+":1|c\nhost.b:1|c\n")
	sink.expect("Denali.a:1|c", "Denali.b:1|c")
	eventually(t, "the books are written", func() bool { return balance(t, p.Proxy)["statsd"].Forwarded == 2 })
	if got := balance(t, p.Proxy)["statsd"]; got.Dropped["too_long"] != 1 || got.Received != 3 {
		t.Errorf("got %+v", got)
	}
}

// A line that grows over the limit by rewriting is dropped; one that just fits
// passes.
func TestLineGrowsTooLong(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	p := start(t, testConfig(carbon.address, carbon.address), holding("Denali"))
	grow := func(n int) string {
		const rest = "host.x;a= 1 1700000000"
		return "host.x;a=" + strings.Repeat("x", n-len(rest)) + " 1 1700000000\n"
	}
	fits := line.MaxLen - len("Denali") + len("host")
	write(t, p.dial(t, "carbon", 0), "host.a 1 1700000000\n"+grow(16380)+grow(fits)+grow(fits+1)+"host.b 1 1700000000\n")
	got := carbon.next(4)
	if got[0] != "Denali.a 1 1700000000" || len(got[1]) != 16382 || len(got[2]) != line.MaxLen || got[3] != "Denali.b 1 1700000000" {
		t.Errorf("got %.40q", got)
	}
	if n := balance(t, p.Proxy)["carbon"].Dropped["too_long"]; n != 1 {
		t.Errorf("got %d too long lines, want 1", n)
	}
}

// Datagrams are packed anew: none over the limit but a single line, no line
// split, nothing lost, in order.
func TestRepacking(t *testing.T) {
	t.Parallel()
	statsd := newSink(t, "udp")
	cfg := testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}})
	cfg.Forward.StatsD.MaxDatagram = minMaxDatagram
	p := start(t, cfg, holding("MtLogan"))
	long := "host.long." + strings.Repeat("y.", 300) + "z:1|c"
	conn := p.dial(t, "statsd", 0)
	var want []string
	for i := range 40 {
		payload := numbered(fmt.Sprintf("host.p%d.%%d:1|c", i), 0, 30)
		if i == 20 {
			payload += long
		}
		write(t, conn, payload)
		for ln := range strings.Lines(payload) {
			want = append(want, strings.Replace(strings.TrimSuffix(ln, "\n"), "host", "MtLogan", 1))
		}
	}
	if got := statsd.next(len(want)); !slices.Equal(got, want) {
		t.Fatalf("the lines are not those that were sent, in order: got %d, want %d", len(got), len(want))
	}
	for range len(statsd.packets) {
		if d := <-statsd.packets; len(d) > minMaxDatagram && strings.Count(d, "\n") != 1 || !strings.HasSuffix(d, "\n") {
			t.Errorf("a datagram of %d bytes, %d lines", len(d), strings.Count(d, "\n"))
		}
	}
}

// Without a name, lines that need one wait, in order; the others don't.
func TestHeldUntilNamed(t *testing.T) {
	t.Parallel()
	statsd, carbon := newSink(t, "tcp"), newSink(t, "tcp")
	names := noNames()
	p := start(t, testConfig(statsd.address, carbon.address), names)
	s, c := p.dial(t, "statsd", 1), p.dial(t, "carbon", 0)
	write(t, s, "host.a:1|c\napp.x:1|c\nMtLogan.foreign:1|c\nhost.b:1|c\n")
	write(t, c, "host.a 1 -1\napp.x 1 1700000000\nhost.b  2  1700000000\n")
	statsd.expect("app.x:1|c")
	carbon.expect("app.x 1 1700000000")
	eventually(t, "the lines are held", func() bool {
		b := balance(t, p.Proxy)
		return b["statsd"].Queued == 3 && b["carbon"].Queued == 2
	})
	before := time.Now().Unix()
	names.set(newClaim("Denali", time.Hour), membership.Held)
	statsd.expect("Denali.a:1|c", "Denali.b:1|c")
	got := carbon.next(2)
	var at int64
	fmt.Sscanf(got[0], "Denali.a 1 %d", &at)
	if at < before-20 || at > before || got[1] != "Denali.b 2 1700000000" {
		t.Errorf("got %q at %d, want the arrival before %d", got, at, before)
	}
	eventually(t, "the foreign line is dropped", func() bool { return balance(t, p.Proxy)["statsd"].Dropped["foreign_name"] == 1 })
}

// The order of one socket is kept while a name comes.
func TestOrderAcrossNaming(t *testing.T) {
	statsd := newSink(t, "tcp")
	names := noNames()
	p := start(t, testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}}), names)
	const lines = 20000
	conn := p.dial(t, "statsd", 1)
	go func() {
		for i := 0; i < lines; i += 10 {
			write(t, conn, numbered("host.n%d:1|c", i, i+10))
		}
	}()
	eventually(t, "lines are held", func() bool { return balance(t, p.Proxy)["statsd"].Queued > 1000 })
	names.set(newClaim("Denali", time.Hour), membership.Held)
	for i, ln := range statsd.next(lines) {
		if want := fmt.Sprintf("Denali.n%d:1|c", i); ln != want {
			t.Fatalf("line %d: got %q, want %q", i, ln, want)
		}
	}
}

// StatsD that was named under a claim leaves under it or not at all.
func TestStatsDGate(t *testing.T) {
	statsd := newSink(t, "tcp")
	statsd.close() // so that lines wait in the queue, named
	names := holding("Denali")
	p := start(t, testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}}), names)
	write(t, p.dial(t, "statsd", 1), "host.a:1|c\napp.x:1|c\n")
	eventually(t, "the lines are queued", func() bool { return balance(t, p.Proxy)["statsd"].Queued == 2 })

	names.set(newClaim("MtLogan", time.Hour), membership.Held)
	statsd.open()
	statsd.expect("app.x:1|c")
	eventually(t, "the line of the lost claim is dropped", func() bool { return balance(t, p.Proxy)["statsd"].Dropped["claim_lost"] == 1 })
	write(t, p.dial(t, "statsd", 1), "host.b:1|c\n")
	statsd.expect("MtLogan.b:1|c")
}

// A claim that is suspended holds its lines back; once renewed, they go on.
func TestStatsDSuspended(t *testing.T) {
	t.Parallel()
	for _, renewed := range []bool{true, false} {
		t.Run(fmt.Sprintf("renewed=%v", renewed), func(t *testing.T) {
			t.Parallel()
			statsd := newSink(t, "tcp")
			statsd.close()
			names := noNames()
			claim := newClaim("Denali", time.Hour)
			names.set(claim, membership.Held)
			p := start(t, testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}}), names)
			write(t, p.dial(t, "statsd", 1), "host.a:1|c\napp.x:1|c\n")
			eventually(t, "the lines are named", func() bool { return balance(t, p.Proxy)["statsd"].Queued == 2 })
			claimtest.Suspend(claim)
			statsd.open()
			write(t, p.dial(t, "statsd", 1), "host.b:1|c\n")
			statsd.expect("app.x:1|c") // needs no name
			eventually(t, "the others wait", func() bool { return p.statsd.(*statsdForwarder).holding.Load() == 2 })
			if renewed {
				claimtest.Extend(claim, time.Hour)
				names.set(claim, membership.Held)
				statsd.expect("Denali.a:1|c", "Denali.b:1|c")
				return
			}
			names.set(nil, membership.Claiming)
			eventually(t, "the named line is dropped", func() bool { return balance(t, p.Proxy)["statsd"].Dropped["claim_lost"] == 1 })
			names.set(newClaim("MtLogan", time.Hour), membership.Held)
			statsd.expect("MtLogan.b:1|c")
		})
	}
}

// Carbon waits for an upstream that is down, and goes on after a reset.
func TestCarbonOutage(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	carbon.close()
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address), holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	write(t, conn, numbered("host.n%d 1 1700000000", 0, 5000))
	eventually(t, "the lines wait", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 5000 })
	carbon.open()
	for i, ln := range carbon.next(5000) {
		if want := fmt.Sprintf("Denali.n%d 1 1700000000", i); ln != want {
			t.Fatalf("line %d: got %q, want %q", i, ln, want)
		}
	}
	carbon.close()
	eventually(t, "the upstream is seen to be down", func() bool { return !p.Status().Upstreams[1].Up })
	write(t, conn, "host.later 1 1700000000\n")
	carbon.open()
	carbon.until("Denali.later 1 1700000000")
}

// A Carbon write that fails half way is sent again, whole.
func TestCarbonBatchInHandIsSentAgain(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	carbon.close()
	l, err := net.Listen("tcp", carbon.address.HostPort())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address), holding("Denali"))
	stalled, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	stalled.(*net.TCPConn).SetReadBuffer(4096)
	const lines = 300000
	go write(t, p.dial(t, "carbon", 0), numbered("host.n%d 1 1700000000", 0, lines))
	// Our side stalls once the buffers of the kernel are full.
	eventually(t, "all is read and the rest waits", func() bool { return balance(t, p.Proxy)["carbon"].Received == lines })
	taken := balance(t, p.Proxy)["carbon"].Forwarded
	l.Close()
	stalled.Close()
	carbon.open()
	got := carbon.next(int(lines - taken))
	first := fmt.Sprintf("Denali.n%d 1 1700000000", taken)
	if got[0] != first || got[len(got)-1] != fmt.Sprintf("Denali.n%d 1 1700000000", lines-1) {
		t.Errorf("got %q to %q, want them from %q", got[0], got[len(got)-1], first)
	}
	eventually(t, "the books are written", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == lines })
	if n := balance(t, p.Proxy)["carbon"].Resent; n == 0 {
		t.Error("nothing counts as resent")
	}
}

// When the queue is full, the oldest lines go and are counted.
func TestQueueFull(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	carbon.close()
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	cfg.Forward.Carbon[0].Queue = minQueue
	p := start(t, cfg, holding("Denali"))
	const lines = 100000 // some 2.6 MB
	write(t, p.dial(t, "carbon", 0), numbered("host.n%05d 1 1700000000", 0, lines))
	eventually(t, "all is read", func() bool { return balance(t, p.Proxy)["carbon"].Received == lines })
	b := balance(t, p.Proxy)["carbon"]
	if b.Dropped["queue_full"] == 0 || b.Queued == 0 {
		t.Fatalf("got %+v", b)
	}
	carbon.open()
	got := carbon.next(int(b.Queued))
	if want := fmt.Sprintf("Denali.n%05d 1 1700000000", lines-1); got[len(got)-1] != want {
		t.Errorf("the newest line is %q, want %q", got[len(got)-1], want)
	}
}

// A UDP upstream that refuses is down; what it refuses at once it gets when it doesn't.
func TestRefusedUDP(t *testing.T) {
	t.Parallel()
	statsd := newSink(t, "udp")
	statsd.close()
	p := start(t, testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}}), holding("Denali"))
	conn := p.dial(t, "statsd", 1)
	write(t, conn, "host.a:1|c\n")
	eventually(t, "it is down", func() bool {
		u := p.Status().Upstreams[0]
		return !u.Up && strings.Contains(u.Reason, "refused")
	})
	if b := balance(t, p.Proxy)["statsd"]; b.Forwarded != 0 || b.Queued != 1 {
		t.Errorf("got %+v", b)
	}
	statsd.open()
	write(t, conn, "host.b:1|c\nhost.c:1|c\n")
	statsd.expect("Denali.a:1|c", "Denali.b:1|c", "Denali.c:1|c")
	eventually(t, "they are forwarded", func() bool { return balance(t, p.Proxy)["statsd"].Forwarded == 3 })
}

// An upstream that turns out to be one of our listeners is not used.
func TestOwnListenerAsUpstream(t *testing.T) {
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}}), holding("Denali"))
	for _, l := range p.inlet.Listeners() {
		for _, host := range []string{l.Address.Host, "0.0.0.0", "::", "::ffff:127.0.0.1"} {
			if at := net.JoinHostPort(host, strconv.Itoa(l.Address.Port)); !p.IsOwn(l.Address.Network, at) {
				t.Errorf("%s is not ours", at)
			}
		}
	}
	if p.IsOwn("udp", "127.0.0.1:9") {
		t.Error("another port is ours")
	}
}

// What has reached our sockets when the end comes is still forwarded.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	statsd, carbon := newSink(t, "udp"), newSink(t, "tcp")
	cfg := testConfig(statsd.address, carbon.address)
	cfg.Coalesce = time.Second // input would gather for long
	p := start(t, cfg, holding("Denali"))
	u, c := p.dial(t, "statsd", 0), p.dial(t, "carbon", 0)
	write(t, u, "host.first:1|c")
	write(t, c, "host.first 1 1\n")
	statsd.expect("Denali.first:1|c")
	carbon.expect("Denali.first 1 1")
	write(t, u, "host.last:1|c")
	write(t, c, "host.last 1 1\n")
	p.stop()
	statsd.expect("Denali.last:1|c")
	carbon.expect("Denali.last 1 1")
	for proto, b := range balance(t, p.Proxy) {
		if b.Forwarded != 2 || b.Queued != 0 {
			t.Errorf("%s: %+v", proto, b)
		}
	}
}

// What no upstream takes by the end of the drain is counted.
func TestStopDropsTheRest(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	carbon.close()
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address), noNames())
	write(t, p.dial(t, "carbon", 0), "host.a 1 1\napp.b 1 1\n")
	eventually(t, "the lines wait", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 2 })
	p.stop()
	if b := balance(t, p.Proxy)["carbon"]; b.Dropped["shutdown"] != 2 || b.Queued != 0 {
		t.Errorf("got %+v", b)
	}
}

// Under load, with a claim that comes and goes and bad lines among good ones,
// the books balance at every look, and what was forwarded has arrived.
func TestBooksBalanceUnderLoad(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	names := holding("Denali")
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address), names)
	registry := prometheus.NewRegistry()
	registry.MustRegister(p.Proxy)

	const senders, rounds = 4, 300
	var work sync.WaitGroup
	for s := range senders {
		conn := p.dial(t, "carbon", 0)
		packets := p.dial(t, "statsd", 0)
		work.Go(func() {
			for i := range rounds {
				write(t, conn, fmt.Sprintf("host.s%d.n%d 1 1700000000\nbad\napp.x 1 1700000000\nMtLogan.f 1 1700000000\n", s, i))
				write(t, packets, "host.a:1|c\nhost.b\n")
			}
		})
	}
	done := make(chan struct{})
	go func() { work.Wait(); close(done) }()
	for looks := 0; ; looks++ {
		balanceScrape(t, registry)
		if looks%3 == 0 {
			names.set(nil, membership.Claiming)
		} else {
			names.set(newClaim("Denali", time.Hour), membership.Held)
		}
		select {
		case <-done:
		case <-time.After(time.Millisecond):
			continue
		}
		break
	}
	names.set(newClaim("Denali", time.Hour), membership.Held)
	got := carbon.next(senders * rounds * 2)
	eventually(t, "all Carbon lines are booked", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 0 })
	b := balanceScrape(t, registry)["carbon"]
	if want := float64(senders * rounds * 4); b["received"] != want || b["forwarded"] != want/2 || b["dropped"] != want/2 {
		t.Errorf("got %v, want %v received", b, want)
	}
	slices.Sort(got)
	if n := len(slices.Compact(got)); n != senders*rounds+1 {
		t.Errorf("%d different lines, want %d", n, senders*rounds+1)
	}
}

// balanceScrape fails the test unless the books of a scrape balance. It returns
// received, forwarded, dropped and queued, by protocol.
func balanceScrape(t *testing.T, g prometheus.Gatherer) map[string]map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	sums := map[string]map[string]float64{"statsd": {}, "carbon": {}}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			proto := ""
			for _, l := range m.GetLabel() {
				if l.GetName() == "protocol" {
					proto = l.GetValue()
				}
			}
			kind := map[string]string{
				"prefixproxy_lines_received_total": "received", "prefixproxy_lines_forwarded_total": "forwarded",
				"prefixproxy_lines_dropped_total": "dropped", "prefixproxy_queue_lines": "queued",
			}[f.GetName()]
			if kind != "" {
				sums[proto][kind] += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	for proto, s := range sums {
		if s["received"] != s["forwarded"]+s["dropped"]+s["queued"] {
			t.Errorf("%s: the scrape does not balance: %v", proto, s)
		}
	}
	return sums
}

// Both protocols may go to stdout.
func TestStdout(t *testing.T) {
	var out syncBuffer
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	p := startWith(t, cfg, holding("Denali"), Options{Stdout: &out})
	write(t, p.dial(t, "statsd", 0), "host.requests:1|c")
	eventually(t, "StatsD", func() bool { return out.String() == "Denali.requests:1|c\n" })
	write(t, p.dial(t, "carbon", 0), "host.cpu 3.4 1700000000\n")
	eventually(t, "Carbon", func() bool { return out.String() == "Denali.requests:1|c\nDenali.cpu 3.4 1700000000\n" })
}

// A peer that takes all and does not close its side does not hold up the end.
func TestStopWithPeerThatStaysOpen(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	got := make(chan string, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		all, _ := io.ReadAll(conn) // until our end is closed
		got <- string(all)
		<-t.Context().Done()
		conn.Close()
	}()
	to := Upstream{Address: Address{Network: "tcp", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}}
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, to), holding("Denali"))
	p.Proxy.drainTime = time.Hour
	write(t, p.dial(t, "carbon", 0), "host.a 1 1\n")
	eventually(t, "the line is sent", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == 1 })
	p.stop()
	if all := <-got; all != "Denali.a 1 1\n" {
		t.Errorf("got %q", all)
	}
}

// A Graphite that is alive but slower than the drain has got all that counts as
// forwarded, when the connection is reset.
func TestStopLeavesSlowPeerItsLines(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := Upstream{Address: Address{Network: "tcp", Host: "127.0.0.1", Port: l.Addr().(*net.TCPAddr).Port}}
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, to), holding("Denali"))
	p.Proxy.drainTime = 100 * time.Millisecond
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	const lines = 10000
	write(t, p.dial(t, "carbon", 0), numbered("host.n%d 1 1700000000", 0, lines))
	eventually(t, "all is read, and some counts as delivered", func() bool {
		b := balance(t, p.Proxy)["carbon"]
		return b.Received == lines && b.Forwarded > 0
	})
	p.stop() // the peer has read nothing yet
	forwarded := balance(t, p.Proxy)["carbon"].Forwarded
	all, err := io.ReadAll(peer)
	if got := uint64(strings.Count(string(all), "\n")); !errors.Is(err, syscall.ECONNRESET) || got < forwarded {
		t.Errorf("%d lines arrived of %d that were forwarded: %v", got, forwarded, err)
	}
}

// stuckWriter is a stdout that nobody reads.
type stuckWriter struct{ read chan struct{} }

func (s stuckWriter) Write(b []byte) (int, error) {
	<-s.read
	return len(b), nil
}

// A stdout that nobody reads does not hold up the end.
func TestStopWithStuckStdout(t *testing.T) {
	t.Parallel()
	out := stuckWriter{make(chan struct{})}
	defer close(out.read)
	p := startWith(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}}), holding("Denali"), Options{Stdout: out})
	p.Proxy.drainTime = time.Millisecond
	write(t, p.dial(t, "carbon", 0), "host.a 1 1\n")
	eventually(t, "the line is read", func() bool { return balance(t, p.Proxy)["carbon"].Received == 1 })
	p.stop()
}

// A Carbon line is named by the tenure that its timestamp falls into.
func TestCarbonNamedByItsTime(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	names := noNames()
	names.set(claimtest.Make(claimtest.Claim{
		Name: "Denali", Valid: time.Hour, Start: time.Unix(5000, 0),
		Ours:   []claimtest.Tenure{{Name: "MtLogan", From: time.Unix(1000, 0), To: time.Unix(2000, 0)}},
		Others: []claimtest.Tenure{{Name: "Denali", From: time.Unix(3000, 0), To: time.Unix(4000, 0)}},
	}).(*membership.Claim), membership.Held)
	p := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address), names)
	conn := p.dial(t, "carbon", 0)
	write(t, conn, "host.now 1 6000\nhost.logan 1 1500\nhost.foreign 1 3500\nhost.between 1 4500\nhost.long.ago 1 10\napp.any 1 3500\nhost.again 1 6001\n")
	carbon.expect("Denali.now 1 6000", "MtLogan.logan 1 1500", "Denali.between 1 4500", "Denali.long.ago 1 10", "app.any 1 3500", "Denali.again 1 6001")
	eventually(t, "the books are closed", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == 6 })
	if b := balance(t, p.Proxy)["carbon"]; b.Dropped["other_tenure"] != 1 {
		t.Errorf("dropped: %v", b.Dropped)
	}
}

// Who sent a bad line is told as it is: not who sent the one before, and quoted, since a
// client chooses the path that it is bound to.
func TestPeersOfBadLines(t *testing.T) {
	statsd := newSink(t, "udp")
	cfg := testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}})
	socket := socketPath(t, "s")
	cfg.Listen.StatsD = []Address{{Network: "unixgram", Path: socket}}
	p := start(t, cfg, holding("Denali"))
	bound := socketPath(t, "\x1b[31m\n")
	for i, from := range []*net.UnixAddr{{Name: bound, Net: "unixgram"}, nil, {Name: "@abstract-" + bound, Net: "unixgram"}} {
		conn, err := net.DialUnix("unixgram", from, &net.UnixAddr{Name: socket, Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		write(t, conn, fmt.Sprintf("bad%d", i))
		eventually(t, "the bad line", func() bool { return len(p.BadLines()) == i+1 })
		want := ""
		if from != nil {
			want = from.Name
		}
		if got := p.BadLines()[0]; got.Peer != want || strings.ContainsAny(got.String(), "\x1b\n") {
			t.Errorf("got peer %q, want %q: %s", got.Peer, want, got)
		}
	}
}
