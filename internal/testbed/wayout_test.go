//go:build linux

package testbed

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/proxy"
)

var slowScenarios = flag.Bool("wayout.slow", false, "also run the scenarios of the way out that take more than half a minute")

// A scenario is one way in which upstreams misbehave. It mostly waits.
type scenario struct {
	name string // one that begins with slow: runs only with -wayout.slow
	run  func(t *testing.T)
}

// What a server may do to us, and what is lost by it.
var scenarios = []scenario{
	{"hangs up at once", func(t *testing.T) { hangsUp(t, 700, manner{HangUp: immediately, Stall: true}) }},
	{"resets at once", func(t *testing.T) { hangsUp(t, 2000, manner{HangUp: immediately, Stall: true, Reset: true}) }},
	{"hangs up after 0.3s", func(t *testing.T) { hangsUp(t, 2000, manner{HangUp: 300 * time.Millisecond}) }},
	{"resets after 0.3s", func(t *testing.T) { hangsUp(t, 700, manner{HangUp: 300 * time.Millisecond, Reset: true}) }},
	{"hangs up after 3s", func(t *testing.T) { hangsUp(t, 50, manner{HangUp: 3 * time.Second}) }},
	{"slow: resets after 3s", func(t *testing.T) { hangsUp(t, 700, manner{HangUp: 3 * time.Second, Reset: true}) }},

	{"the first of two hangs up at once", func(t *testing.T) { firstIsLeft(t, "carbon", manner{HangUp: immediately}) }},
	{"the first of two hangs up after 0.3s", func(t *testing.T) { firstIsLeft(t, "carbon", manner{HangUp: 300 * time.Millisecond}) }},
	{"the first of two never reads", func(t *testing.T) { firstIsLeft(t, "carbon", manner{Stall: true}) }},
	{"the first of two never reads the few lines that it gets", neverReadsFew},
	{"the first of two statsds hangs up at once", func(t *testing.T) { firstIsLeft(t, "statsd", manner{HangUp: immediately}) }},
	{"the first of two statsds never reads", func(t *testing.T) { firstIsLeft(t, "statsd", manner{Stall: true}) }},
	{"the first of two comes, and hangs up", func(t *testing.T) { secondIsKept(t, "carbon") }},
	{"the first of two statsds comes, and hangs up", func(t *testing.T) { secondIsKept(t, "statsd") }},
	{"the first of two comes, and works", func(t *testing.T) { firstIsTakenBack(t, "carbon") }},
	{"the first of two statsds comes, and works", func(t *testing.T) { firstIsTakenBack(t, "statsd") }},

	{"the first address of a name is silent", func(t *testing.T) { firstAddressIsSilent(t, "carbon") }},
	{"the first address of a statsd's name is silent", func(t *testing.T) { firstAddressIsSilent(t, "statsd") }},
	{"a name moves, and its server ends", nameMovesServerEnds},
	{"slow: a name moves, by udp", nameMovesUDP},
	{"slow: a name gets another address, by udp", nameGrowsUDP},
	{"nobody resolves a name for a while", nobodyResolves},
	{"the first of two nameservers is silent", firstNameServerIsSilent},
	{"a name has another address each time", nameRotates},

	{"a udp host vanishes", udpHostVanishes},
	{"a udp server ends, and then its host vanishes", udpServerEndsHostVanishes},
	{"a udp host refuses late", udpRefusesLate},
	{"a udp server ends at an empty datagram", udpServerEndsAtEmpty},
	{"a udp path is narrow, and says so", func(t *testing.T) { udpPathIsNarrow(t, true) }},
	{"a udp path is narrow, and silent about it", func(t *testing.T) { udpPathIsNarrow(t, false) }},
	{"slow: a tcp path is narrow, and silent about it", func(t *testing.T) { tcpPathIsNarrow(t, false) }},
	{"slow: a path is narrow, and silent about it, with tls", func(t *testing.T) { tcpPathIsNarrow(t, true) }},
	{"a udp server restarts", udpServerRestarts},
	{"our own device is too slow, by udp", deviceIsFull},

	{"a statsd pauses", statsdPauses},
	{"a statsd pauses beyond the horizon", statsdPausesBeyondTheHorizon},
	{"a statsd pauses, and the name goes", statsdPausesAndTheNameGoes},
	{"a statsd pauses, and is killed", statsdPausesAndIsKilled},
	{"slow: a graphite pauses", graphitePauses},
	{"slow: a graphite reads slowly", graphiteIsSlow},
	{"an idle connection is closed", idleIsClosed},
	{"slow: an idle connection is closed late", idleIsClosedLate},
	{"a server half-closes", func(t *testing.T) { halfCloses(t, "carbon") }},
	{"a statsd half-closes", func(t *testing.T) { halfCloses(t, "statsd") }},
	{"connections have an age", connectionsAge},
	{"a server on a unix socket hangs up", unixHangsUp},
	{"a statsd on a unix socket", unixStatsD},
}

func TestWayOut(t *testing.T) {
	t.Parallel()
	for _, s := range slices.Concat(scenarios, tlsScenarios, realScenarios) {
		if !strings.HasPrefix(s.name, "slow: ") || *slowScenarios {
			t.Run(s.name, func(t *testing.T) {
				t.Parallel()
				s.run(t)
			})
		}
	}
}

// hangsUp: a balancer whose Graphite is down takes lines, and hangs up. When it
// is back, no line is missing.
func hangsUp(t *testing.T, rate int, m manner) {
	m.Lose = true
	server := startReceiver(t, receiverSpec{}, m)
	w := startWayOut(t, daemonPlan{carbon: to(server.URL), replay: "4KiB"})
	w.counts(server)
	for w.sendFor("carbon", rate, 7*time.Second); server.Connections() < 3; {
		w.sendFor("carbon", rate, time.Second) // fewer would prove little
	}
	server.Behave(manner{})
	w.awaitDelivered("carbon")
	w.saidOnce(server.Addr)
}

// twoReceivers returns the first and the second address of a failover list, and
// the daemon that has it. What the second gets counts.
func twoReceivers(t *testing.T, protocol string, m manner) (first, second *receiver, w *wayOut) {
	first, second = startReceiver(t, receiverSpec{Buffer: smallBuffer}, m), startSink(t)
	w = startWayOut(t, plan(protocol, first.URL, second.URL))
	w.counts(second)
	return first, second, w
}

// firstIsLeft: the first address of a list accepts connections, but does not
// work. The second is used, and the status and the log say why.
func firstIsLeft(t *testing.T, protocol string, m manner) {
	m.Lose = true
	first, second, w := twoReceivers(t, protocol, m)
	w.sendFor(protocol, 400, pick(m.Stall, 10*time.Second, 6*time.Second))
	w.awaitUp(second.URL)
	w.isUnused(first)
	if protocol == "statsd" && m.Stall {
		w.counts(first) // what it was sent is queued until it takes that
		first.Behave(manner{})
		w.awaitArrivals(protocol, 4000)
	}
	w.awaitDelivered(protocol)
	if protocol == "statsd" {
		w.arrivesWithoutGap(second, 1000)
	}
	w.saidOnce(first.Addr)
}

// neverReadsFew: the same, where the kernel of the first would take the lines of an hour.
func neverReadsFew(t *testing.T) {
	first, second, w := twoReceivers(t, "carbon", manner{Stall: true, Lose: true})
	w.sendUntilArrives("carbon", second)
	w.isUnused(first)
	w.awaitDelivered("carbon")
	w.saidOnce(first.Addr)
}

// secondIsKept: the first address of a list is refused, and then comes to accept
// connections, and no more. The second, which works, stays.
func secondIsKept(t *testing.T, protocol string) {
	first, second, w := twoReceivers(t, protocol, manner{Refuse: true})
	w.awaitUp(second.URL)
	first.Behave(manner{HangUp: immediately, Lose: true})
	w.sendFor(protocol, 400, 9*time.Second) // it is looked at each 7.5 s at the latest
	w.isUnused(first)
	w.awaitDelivered(protocol)
	w.arrivesWithoutGap(second, 3600)
	if n := second.sessions(); n != 1 {
		t.Errorf("the second got lines on %d connections, want one that lasts", n)
	}
	w.saidOnce(first.Addr)
}

// firstIsTakenBack: it works again.
func firstIsTakenBack(t *testing.T, protocol string) {
	first, second, w := twoReceivers(t, protocol, manner{Refuse: true})
	w.counts(first)
	w.awaitUp(second.URL)
	w.sendFor(protocol, 400, time.Second)
	first.Behave(manner{})
	w.awaitUp(first.URL)
	w.sendFor(protocol, 400, time.Second)
	w.awaitDelivered(protocol)
	if len(first.Lines()) == 0 || len(second.Lines()) == 0 {
		t.Errorf("%d lines went to the first, %d to the second; want some to each", len(first.Lines()), len(second.Lines()))
	}
}

const upstreamName = "graphite.test"

// named returns an upstream by its name.
func named(network string, r *receiver) string {
	_, port, _ := net.SplitHostPort(r.Addr)
	return network + "://" + upstreamName + ":" + port
}

// plan is that of a daemon with upstreams of one protocol.
func plan(protocol string, urls ...string) daemonPlan {
	if protocol == "carbon" {
		return daemonPlan{carbon: to(urls...)}
	}
	return daemonPlan{statsd: to(urls...)}
}

// firstAddressIsSilent: of two addresses of a name the first doesn't answer.
func firstAddressIsSilent(t *testing.T, protocol string) {
	dns, network := startNameServer(t), newNowhere(t, 0)
	server := startReceiver(t, receiverSpec{Addr: fmt.Sprintf("%s:%d", network.here, sidebyside.FreePort(t))}, manner{})
	dns.move(upstreamName, network.silent, network.here)
	p := plan(protocol, named("tcp", server))
	p.resolver = dns.addr
	w := startWayOut(t, p)
	w.counts(server)
	began := time.Now()
	w.sendFor(protocol, 100, 3*time.Second)
	w.awaitUp(named("tcp", server))
	t.Logf("up %v after a name was held", time.Since(began).Round(time.Millisecond))
	w.awaitDelivered(protocol)
	w.awaitArrivals(protocol, 150) // StatsD may not wait for longer than 10 s
}

// twoHosts returns two receivers with one port on two addresses, of which a name
// has the first.
func twoHosts(t *testing.T, network string) (dns *nameServer, first, second *receiver) {
	dns = startNameServer(t)
	port := sidebyside.FreePort(t)
	first = startReceiver(t, receiverSpec{Network: network, Addr: fmt.Sprintf("127.0.0.2:%d", port)}, manner{})
	second = startReceiver(t, receiverSpec{Network: network, Addr: fmt.Sprintf("127.0.0.3:%d", port)}, manner{})
	dns.move(upstreamName, "127.0.0.2")
	return dns, first, second
}

// nameMovesServerEnds: a name is resolved again for each connection.
func nameMovesServerEnds(t *testing.T) {
	dns, first, second := twoHosts(t, "tcp")
	w := startWayOut(t, daemonPlan{carbon: to(named("tcp", first)), resolver: dns.addr})
	w.counts(first, second)
	w.send("carbon", 1000, 100)
	w.awaitArrivals("carbon", 100)
	dns.move(upstreamName, "127.0.0.3")
	first.Behave(manner{Refuse: true})
	w.send("carbon", 1000, 100)
	w.awaitDelivered("carbon")
	w.awaitArrivals("carbon", 200)
}

// nameMovesUDP: what is sent by UDP follows a name.
func nameMovesUDP(t *testing.T) {
	dns, first, second := twoHosts(t, "udp")
	w := startWayOut(t, daemonPlan{statsd: to(named("udp", first)), resolver: dns.addr})
	w.counts(first, second)
	w.sendUntilArrives("statsd", first)
	dns.move(upstreamName, "127.0.0.3")
	began := time.Now()
	w.sendUntilArrives("statsd", second)
	t.Logf("it followed after %v", time.Since(began).Round(time.Second))
}

// nameGrowsUDP: as long as the address is among a name's, the session stays.
func nameGrowsUDP(t *testing.T) {
	dns, first, second := twoHosts(t, "udp")
	w := startWayOut(t, daemonPlan{statsd: to(named("udp", first)), resolver: dns.addr})
	w.sendUntilArrives("statsd", first)
	dns.move(upstreamName, "127.0.0.3", "127.0.0.2")
	w.sendFor("statsd", 20, 40*time.Second)
	if got := len(second.Lines()); got > 0 {
		t.Errorf("%d lines went to the other address", got)
	}
}

// nobodyResolves: a name that doesn't resolve is down, and no more; where it did before, it is where
// it was.
func nobodyResolves(t *testing.T) {
	dns, first, _ := twoHosts(t, "tcp")
	dns.silence(true)
	w := startWayOut(t, daemonPlan{carbon: to(named("tcp", first)), resolver: dns.addr})
	w.counts(first)
	w.sendFor("carbon", 100, 3*time.Second)
	if u, err := w.upstream(named("tcp", first)); err != nil || u.Up || u.Reason == "" {
		t.Errorf("the status says of it %+v (%v), want that it is down, and why", u, err)
	}
	dns.silence(false)
	w.awaitDelivered("carbon")
	w.awaitArrivals("carbon", 300)

	dns.silence(true)
	first.Behave(manner{Refuse: true}) // which ends the session
	first.Behave(manner{})
	w.send("carbon", 100, 100)
	w.awaitDelivered("carbon")
	w.awaitArrivals("carbon", 400)
}

// firstNameServerIsSilent: the second is asked after five seconds.
func firstNameServerIsSilent(t *testing.T) {
	dns, first, _ := twoHosts(t, "tcp")
	silent := startNameServer(t)
	silent.silence(true)
	w := startWayOut(t, daemonPlan{carbon: to(named("tcp", first)), resolver: silent.addr + " " + dns.addr})
	w.counts(first)
	w.send("carbon", 1000, 100)
	w.awaitDelivered("carbon")
	w.awaitArrivals("carbon", 100)
}

// nameRotates: a server that refuses is remembered, though the next answer is another.
func nameRotates(t *testing.T) {
	dns, first, second := twoHosts(t, "tcp")
	dns.move(upstreamName, "127.0.0.2", "127.0.0.3")
	dns.rotate()
	first.Behave(manner{HangUp: immediately, Lose: true})
	second.Behave(manner{HangUp: immediately, Lose: true})
	w := startWayOut(t, daemonPlan{carbon: to(named("tcp", first)), resolver: dns.addr})
	w.counts(first, second)
	w.sendFor("carbon", 100, 5*time.Second)
	if n := first.Connections() + second.Connections(); n > 30 {
		t.Errorf("%d connections to servers that hang up", n)
	}
	w.saidOnce(upstreamName)
	second.Behave(manner{})
	w.awaitDelivered("carbon")
}

// udpHostVanishes: a host is switched off, and the kernel says so when it has
// looked for it.
func udpHostVanishes(t *testing.T) {
	far := newFaraway(t)
	first := startReceiver(t, receiverSpec{Network: "udp", Addr: fmt.Sprintf("%s:%d", far.host, sidebyside.FreePort(t)), host: far}, manner{})
	second := startReceiver(t, receiverSpec{Network: "udp"}, manner{})
	w := startWayOut(t, daemonPlan{statsd: to(first.URL, second.URL)})
	w.counts(first, second)
	w.sendUntilArrives("statsd", first)
	far.vanish()
	began := time.Now()
	w.sendUntilArrives("statsd", second)
	t.Logf("it was left after %v", time.Since(began).Round(100*time.Millisecond))
	w.isUnused(first)
	far.connect()
	w.staysWith("statsd", second, 9*time.Second)
	w.saidOnce(first.Addr)
}

// udpServerEndsHostVanishes: the first is refused, so the second is used. When
// the host of the first is gone, its silence is no proof that it works.
func udpServerEndsHostVanishes(t *testing.T) {
	far := newFaraway(t)
	first := startReceiver(t, receiverSpec{Network: "udp", Addr: fmt.Sprintf("%s:%d", far.host, sidebyside.FreePort(t)), host: far}, manner{})
	second := startReceiver(t, receiverSpec{Network: "udp"}, manner{})
	w := startWayOut(t, daemonPlan{statsd: to(first.URL, second.URL)})
	w.counts(first, second)
	w.sendUntilArrives("statsd", first)
	first.Behave(manner{Refuse: true})
	w.sendUntilArrives("statsd", second)
	far.vanish()
	w.staysWith("statsd", second, 9*time.Second)
	w.saidOnce(first.Addr)
}

// udpRefusesLate: a refusal needs as long as the way there and back.
func udpRefusesLate(t *testing.T) {
	network := newNowhere(t, 120*time.Millisecond)
	first := fmt.Sprintf("%s:%d", network.late, sidebyside.FreePort(t))
	second := startReceiver(t, receiverSpec{Network: "udp"}, manner{})
	w := startWayOut(t, daemonPlan{statsd: to("udp://"+first, second.URL)})
	w.counts(second)
	w.sendUntilArrives("statsd", second)
	w.staysWith("statsd", second, 9*time.Second)
	w.saidOnce(first)
}

// udpServerEndsAtEmpty: we send nothing but lines.
func udpServerEndsAtEmpty(t *testing.T) {
	server := startReceiver(t, receiverSpec{Network: "udp"}, manner{EndAtEmpty: true})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL)})
	w.sendUntilArrives("statsd", server)
}

// udpPathIsNarrow: between us and a host is a network that carries less than our own.
func udpPathIsNarrow(t *testing.T, tells bool) {
	far := newFaraway(t).beyond(600, tells)
	server := startReceiver(t, receiverSpec{Network: "udp", Addr: fmt.Sprintf("%s:%d", far.host, sidebyside.FreePort(t)), Buffer: 4 << 20, host: far}, manner{})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL)})
	w.counts(server)
	const lines = 15_000
	w.send("statsd", 5000, lines)
	w.awaitDelivered("statsd")
	w.awaitArrivals("statsd", lines)
}

// tcpPathIsNarrow: the kernel would send its long packets in vain, for ever.
func tcpPathIsNarrow(t *testing.T, withTLS bool) {
	far := newFaraway(t).beyond(600, false)
	spec, settings := receiverSpec{Addr: fmt.Sprintf("%s:%d", far.host, sidebyside.FreePort(t)), host: far}, ""
	if withTLS {
		ca := newAuthority(t)
		spec.TLS, settings = ca.issue(far.host, time.Hour).server(t, nil), ", "+trust(ca)
	}
	server := startReceiver(t, spec, manner{})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL) + settings})
	w.counts(server)
	w.send("carbon", 2000, 20_000)
	w.awaitDelivered("carbon")
	w.awaitArrivals("carbon", 20_000)
}

// udpServerRestarts: its kernel has no room for all that has waited meanwhile at once, nor for what
// comes while a busy machine keeps the receiver from reading: then, that proves nothing.
func udpServerRestarts(t *testing.T) {
	server := startReceiver(t, receiverSpec{Network: "udp"}, manner{})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL)})
	w.counts(server)
	w.sendUntilArrives("statsd", server)
	const lines, room = 12_000, 40 * time.Millisecond // at the pace of a backlog
	lost := func() int {
		status, err := w.current().Status()
		if err != nil {
			t.Fatal(err)
		}
		return int(status.Lines["statsd"].Forwarded) - w.lines.arrivals(false)
	}
	for range 5 {
		server.Behave(manner{Refuse: true})
		w.send("statsd", 2000, lines)
		before, late := lost(), lateness(t.Context())
		server.Behave(manner{})
		w.awaitDelivered("statsd")
		if w.within(soon, func() bool { return lost()-before < lines/4 }) {
			return
		}
		if late() < room {
			t.Fatalf("of %d lines that waited, %d are lost", lines, lost()-before)
		}
	}
	t.Skip("the machine is too busy for this")
}

// lateness returns what tells by how much, at the most, this process has come too late to something
// since.
func lateness(ctx context.Context) func() time.Duration {
	const every = 5 * time.Millisecond
	ctx, cancel := context.WithCancel(ctx)
	most := make(chan time.Duration, 1)
	go func() {
		var worst time.Duration
		tick := time.NewTicker(every)
		defer tick.Stop()
		for last := time.Now(); ; last = time.Now() {
			select {
			case <-tick.C:
				worst = max(worst, time.Since(last)-every)
			case <-ctx.Done():
				most <- worst
				return
			}
		}
	}()
	return func() time.Duration {
		cancel()
		return <-most
	}
}

// deviceIsFull: that our own network device takes no more is not the server's fault.
func deviceIsFull(t *testing.T) {
	far := newFaraway(t)
	lookPath(t, "tc", "iproute2")
	first := startReceiver(t, receiverSpec{Network: "udp", Addr: fmt.Sprintf("%s:%d", far.host, sidebyside.FreePort(t)), host: far}, manner{})
	second := startReceiver(t, receiverSpec{Network: "udp"}, manner{})
	w := startWayOut(t, daemonPlan{statsd: to(first.URL, second.URL)})
	w.sendUntilArrives("statsd", first)
	slow := strings.Fields("qdisc add dev " + far.name + " root tbf rate 64kbit burst 1600 limit 3000")
	if out, err := exec.Command("tc", slow...).CombinedOutput(); err != nil {
		t.Skipf("tc %v: %v: %s", slow, err, out)
	}
	w.sendFor("statsd", 2000, 3*time.Second)
	w.awaitUp(first.URL)
	if n := len(second.Lines()); n > 0 {
		t.Errorf("%d lines went to the second", n)
	}
}

// statsdPauses: a reset would end it.
func statsdPauses(t *testing.T) {
	server := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL)})
	w.counts(server)
	w.sendFor("statsd", 2000, 4*time.Second)
	server.Behave(manner{})
	w.awaitDelivered("statsd")
	w.arrivesInOrder(server, 8000)
}

// statsdPausesBeyondTheHorizon: what our kernel still has at the horizon of the
// claim leaves under no name.
func statsdPausesBeyondTheHorizon(t *testing.T) {
	etcd := devetcdtest.Start(t)
	server := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL), etcd: etcd.Endpoint()})
	w.sendFor("statsd", 10_000, 2*time.Second) // more than two sockets hold
	etcd.Close()
	w.current().eventually(t, "the horizon", func() error {
		status, err := w.current().Status()
		if err == nil && status.State == "held" {
			err = errors.New("the name is held")
		}
		return err
	})
	w.onlyWhatHadLeft(server)
}

// statsdPausesAndTheNameGoes: nor does what our kernel has when the name is asked for leave,
// though its horizon is far.
func statsdPausesAndTheNameGoes(t *testing.T) {
	server := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL)})
	w.sendFor("statsd", 10_000, 2*time.Second) // more than two sockets hold
	d := w.current()
	if out, err := program(t, []string{"DIR=" + d.Dir}, "release", "--config", filepath.Join(d.Dir, "config.yaml"), nameArrived).CombinedOutput(); err != nil {
		t.Fatalf("release: %v\n%s", err, out)
	}
	d.AwaitName(t, nameNext)
	w.onlyWhatHadLeft(server)
}

// onlyWhatHadLeft lets a server go on that has paused, and checks that no line under the
// name comes but those that its kernel has now.
func (w *wayOut) onlyWhatHadLeft(server *receiver) {
	w.t.Helper()
	left := bytes.Count(server.unread(), []byte("\n"))
	server.Behave(manner{})
	eventually(w.t, "a line that needs no name", func() error {
		send(w.t, "tcp", w.at.statsd, "free:1|c\n")
		if !slices.Contains(server.Lines(), "free:1|c") {
			return errors.New("none arrives")
		}
		return nil
	})
	named := 0
	for _, line := range server.Lines() {
		if strings.HasPrefix(line, nameArrived) {
			named++
		}
	}
	if left == 0 || named > left {
		w.t.Errorf("%d lines arrived under the name, %d had left while it was held", named, left)
	}
}

// statsdPausesAndIsKilled: forwarded is what its kernel had.
func statsdPausesAndIsKilled(t *testing.T) {
	server := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL)})
	w.sendFor("statsd", 2000, 3*time.Second)
	var b proxy.Books
	isExact := func(had uint64) func() error {
		return func() error {
			status, err := w.current().Status()
			if b = status.Lines["statsd"]; err == nil && (had == 0 || b.Forwarded != had) {
				err = fmt.Errorf("%d lines were forwarded, its kernel has %d", b.Forwarded, had)
			}
			return err
		}
	}
	had := uint64(0)
	eventually(t, "what is forwarded", func() error {
		had = uint64(bytes.Count(server.unread(), []byte("\n")))
		return isExact(had)()
	})
	server.Behave(manner{Refuse: true})
	eventually(t, "the end of what is not", func() error {
		if err := isExact(had)(); err != nil {
			return err
		}
		if b.Queued > 0 {
			return fmt.Errorf("%d wait", b.Queued)
		}
		return nil
	})
	report(t, w.problems())
}

// graphitePauses: it isn't reset, as long as its kernel answers.
func graphitePauses(t *testing.T) {
	server := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL)})
	w.counts(server)
	w.send("carbon", 100_000, 100_000) // more than two sockets hold
	w.sendFor("carbon", 100, 25*time.Second)
	server.Behave(manner{})
	w.awaitDelivered("carbon")
	if n := server.Connections(); n != 1 {
		t.Errorf("%d connections came, want one that lasts", n)
	}
}

// graphiteIsSlow: the kernel asks it again and again whether it has room, and goes on.
func graphiteIsSlow(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, 10_000)
	unix.Close(fd)
	if err != nil {
		t.Skipf("TCP_RTO_MAX_MS: %v", err)
	}
	server := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{PerSecond: 30_000})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL)})
	w.counts(server)
	w.sendFor("carbon", 2000, 30*time.Second)
	server.Behave(manner{})
	w.awaitDelivered("carbon")
	if n := server.Connections(); n != 1 {
		t.Errorf("%d connections came, want one that lasts", n)
	}
}

// idleIsClosed: what was acknowledged long before is sent three times more at
// most, and then no more.
func idleIsClosed(t *testing.T) {
	server := startReceiver(t, receiverSpec{}, manner{Idle: time.Second})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL), replay: "4MiB"})
	w.counts(server)
	const lines = 10_000
	w.send("carbon", 100_000, lines)
	w.awaitDelivered("carbon")
	eventually(t, "connections", func() error {
		if n := server.Connections(); n < 8 {
			return fmt.Errorf("%d have come", n)
		}
		return nil
	})
	if got := len(server.Lines()); got > 4*lines {
		t.Errorf("%d lines arrived in %d connections, want %d at most", got, server.Connections(), 4*lines)
	}
	w.awaitDelivered("carbon")
}

// idleIsClosedLate: nothing is sent again.
func idleIsClosedLate(t *testing.T) {
	server := startReceiver(t, receiverSpec{}, manner{Idle: 22 * time.Second})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL), replay: "4MiB"})
	w.counts(server)
	w.send("carbon", 100_000, 10_000)
	eventually(t, "a second connection", func() error {
		if n := server.Connections(); n < 2 {
			return fmt.Errorf("%d have come", n)
		}
		return nil
	})
	w.send("carbon", 100_000, 1)
	w.awaitDelivered("carbon")
	if got := len(server.Lines()); got != 10_001 {
		t.Errorf("%d lines arrived, want each of 10001 once", got)
	}
}

// halfCloses: a server that says that it will send nothing, which is its right,
// and reads on.
func halfCloses(t *testing.T, protocol string) {
	server := startReceiver(t, receiverSpec{}, manner{HalfClose: true})
	w := startWayOut(t, plan(protocol, server.URL))
	w.counts(server)
	const lines = 300
	w.send(protocol, 100, lines)
	w.awaitDelivered(protocol)
	w.awaitArrivals(protocol, lines)
	if got := len(server.Lines()); got != lines {
		t.Errorf("%d lines arrived, want each of %d once", got, lines)
	}
	w.saidOnce(server.Addr)
}

// connectionsAge: with max_age, a connection ends in order, between two lines.
func connectionsAge(t *testing.T) {
	server := startSink(t)
	w := startWayOut(t, daemonPlan{carbon: to(server.URL) + ", max_age: 2s"})
	w.counts(server)
	const lines = 800
	w.send("carbon", 100, lines)
	w.awaitDelivered("carbon")
	if n := server.Connections(); n < 3 {
		t.Errorf("%d connections came, want one each two seconds", n)
	}
	if got := len(server.Lines()); got > 4*lines { // what a young connection took may come again, three times
		t.Errorf("%d lines arrived, want each of %d four times at most", got, lines)
	}
}

// unixHangsUp: there is no TCP_INFO on a unix socket, and no line is lost all the
// same.
func unixHangsUp(t *testing.T) {
	server := startReceiver(t, receiverSpec{Network: "unix", Addr: filepath.Join(t.TempDir(), "carbon")}, manner{HangUp: 300 * time.Millisecond, Lose: true})
	w := startWayOut(t, daemonPlan{carbon: to(server.URL), replay: "4KiB"})
	w.counts(server)
	w.sendFor("carbon", 700, 4*time.Second)
	server.Behave(manner{})
	w.awaitDelivered("carbon")
}

func unixStatsD(t *testing.T) {
	server := startReceiver(t, receiverSpec{Network: "unixgram", Addr: filepath.Join(t.TempDir(), "statsd")}, manner{})
	w := startWayOut(t, daemonPlan{statsd: to(server.URL)})
	w.counts(server)
	w.send("statsd", 1000, 1000)
	w.awaitDelivered("statsd")
	w.awaitArrivals("statsd", 1000)
	server.Behave(manner{Refuse: true})
	w.send("statsd", 1000, 100)
	os.Remove(server.Addr) // as a server that comes back does
	server.Behave(manner{})
	w.sendUntilArrives("statsd", server)
}
