//go:build linux

package testbed

import (
	"flag"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

var slowScenarios = flag.Bool("wayout.slow", false, "also run the scenarios of the way out that take more than half a minute")

// A scenario is one way in which upstreams misbehave. It mostly waits.
type scenario struct {
	name string // one that begins with slow: runs only with -wayout.slow
	run  func(t *testing.T)
}

// What a server may do to us, and what is lost by it.
var scenarios = []scenario{
	{"hangs up at once", func(t *testing.T) { hangsUp(t, 700, Manner{HangUp: immediately, Stall: true}) }},
	{"resets at once", func(t *testing.T) { hangsUp(t, 2000, Manner{HangUp: immediately, Stall: true, Reset: true}) }},
	{"hangs up after 0.3s", func(t *testing.T) { hangsUp(t, 2000, Manner{HangUp: 300 * time.Millisecond}) }},
	{"resets after 0.3s", func(t *testing.T) { hangsUp(t, 700, Manner{HangUp: 300 * time.Millisecond, Reset: true}) }},
	{"hangs up after 3s", func(t *testing.T) { hangsUp(t, 50, Manner{HangUp: 3 * time.Second}) }},
	{"resets after 3s", func(t *testing.T) { hangsUp(t, 700, Manner{HangUp: 3 * time.Second, Reset: true}) }},

	{"the first of two hangs up at once", func(t *testing.T) { firstIsLeft(t, "carbon", Manner{HangUp: immediately}) }},
	{"the first of two hangs up after 0.3s", func(t *testing.T) { firstIsLeft(t, "carbon", Manner{HangUp: 300 * time.Millisecond}) }},
	{"the first of two never reads", func(t *testing.T) { firstIsLeft(t, "carbon", Manner{Stall: true}) }},
	{"the first of two statsds hangs up at once", func(t *testing.T) { firstIsLeft(t, "statsd", Manner{HangUp: immediately}) }},
	{"the first of two statsds never reads", func(t *testing.T) { firstIsLeft(t, "statsd", Manner{Stall: true}) }},
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

	{"a udp host vanishes", udpHostVanishes},
	{"a udp server ends, and then its host vanishes", udpServerEndsHostVanishes},
	{"a udp host refuses late", udpRefusesLate},
}

func TestWayOut(t *testing.T) {
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	defer running.Wait()
	for _, s := range scenarios {
		if strings.HasPrefix(s.name, "slow: ") && !*slowScenarios {
			continue
		}
		running.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			t.Run(s.name, s.run)
		})
	}
}

// hangsUp: a balancer whose Graphite is down takes lines, and hangs up. When it
// is back, no line is missing.
func hangsUp(t *testing.T, rate int, m Manner) {
	m.Lose = true
	server := StartReceiver(t, receiverSpec{}, m)
	w := startWayOut(t, daemonPlan{carbon: to(server.URL), replay: "4KiB"})
	w.counts(server)
	w.sendFor("carbon", rate, 8*time.Second)
	if n := server.Connections(); n < 3 {
		t.Fatalf("the balancer got %d connections: too few to see anything", n)
	}
	server.Behave(Manner{})
	w.awaitDelivered("carbon")
	w.saidOnce(server.Addr)
}

// twoReceivers returns the first and the second address of a failover list, and
// the daemon that has it. What the second gets counts.
func twoReceivers(t *testing.T, protocol string, m Manner) (first, second *Receiver, w *wayOut) {
	first, second = StartReceiver(t, receiverSpec{Buffer: smallBuffer}, m), StartSink(t)
	w = startWayOut(t, plan(protocol, first.URL, second.URL))
	w.counts(second)
	return first, second, w
}

// firstIsLeft: the first address of a list accepts connections, but does not
// work. The second is used, and the status and the log say why.
func firstIsLeft(t *testing.T, protocol string, m Manner) {
	m.Lose = true
	first, second, w := twoReceivers(t, protocol, m)
	w.sendFor(protocol, 400, 12*time.Second)
	w.awaitUp(second.URL)
	w.isUnused(first)
	w.awaitDelivered(protocol)
	if protocol == "statsd" {
		w.arrivesWithoutGap(second, 1000)
	}
	w.saidOnce(first.Addr)
}

// secondIsKept: the first address of a list is refused, and then comes to accept
// connections, and no more. The second, which works, stays.
func secondIsKept(t *testing.T, protocol string) {
	first, second, w := twoReceivers(t, protocol, Manner{Refuse: true})
	w.awaitUp(second.URL)
	first.Behave(Manner{HangUp: immediately, Lose: true})
	w.sendFor(protocol, 400, 12*time.Second)
	w.isUnused(first)
	w.awaitDelivered(protocol)
	w.arrivesWithoutGap(second, 4000)
	if n := second.Connections(); n != 1 {
		t.Errorf("the second got %d connections, want one that lasts", n)
	}
	w.saidOnce(first.Addr)
}

// firstIsTakenBack: it works again.
func firstIsTakenBack(t *testing.T, protocol string) {
	first, second, w := twoReceivers(t, protocol, Manner{Refuse: true})
	w.counts(first)
	w.awaitUp(second.URL)
	w.sendFor(protocol, 400, time.Second)
	first.Behave(Manner{})
	w.awaitUp(first.URL)
	w.sendFor(protocol, 400, time.Second)
	w.awaitDelivered(protocol)
	if len(first.Lines()) == 0 || len(second.Lines()) == 0 {
		t.Errorf("%d lines went to the first, %d to the second; want some to each", len(first.Lines()), len(second.Lines()))
	}
}

const upstreamName = "graphite.test"

// named returns an upstream by its name.
func named(network string, r *Receiver) string {
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
	server := StartReceiver(t, receiverSpec{Addr: fmt.Sprintf("%s:%d", network.here, FreePort(t))}, Manner{})
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
func twoHosts(t *testing.T, network string) (dns *nameServer, first, second *Receiver) {
	dns = startNameServer(t)
	port := FreePort(t)
	first = StartReceiver(t, receiverSpec{Network: network, Addr: fmt.Sprintf("127.0.0.2:%d", port)}, Manner{})
	second = StartReceiver(t, receiverSpec{Network: network, Addr: fmt.Sprintf("127.0.0.3:%d", port)}, Manner{})
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
	first.Behave(Manner{Refuse: true})
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

// nobodyResolves: a name that doesn't resolve is down, and no more.
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
}

// udpHostVanishes: a host is switched off, and the kernel says so when it has
// looked for it.
func udpHostVanishes(t *testing.T) {
	far := newFaraway(t)
	first := StartReceiver(t, receiverSpec{Network: "udp", Addr: fmt.Sprintf("%s:%d", far.host, FreePort(t)), host: far}, Manner{})
	second := StartReceiver(t, receiverSpec{Network: "udp"}, Manner{})
	w := startWayOut(t, daemonPlan{statsd: to(first.URL, second.URL)})
	w.counts(first, second)
	w.sendUntilArrives("statsd", first)
	far.vanish()
	began := time.Now()
	w.sendUntilArrives("statsd", second)
	t.Logf("it was left after %v", time.Since(began).Round(100*time.Millisecond))
	w.isUnused(first)
	far.connect()
	w.staysWith("statsd", second, 12*time.Second)
	w.saidOnce(first.Addr)
}

// udpServerEndsHostVanishes: the first is refused, so the second is used. When
// the host of the first is gone, its silence is no proof that it works.
func udpServerEndsHostVanishes(t *testing.T) {
	far := newFaraway(t)
	first := StartReceiver(t, receiverSpec{Network: "udp", Addr: fmt.Sprintf("%s:%d", far.host, FreePort(t)), host: far}, Manner{})
	second := StartReceiver(t, receiverSpec{Network: "udp"}, Manner{})
	w := startWayOut(t, daemonPlan{statsd: to(first.URL, second.URL)})
	w.counts(first, second)
	w.sendUntilArrives("statsd", first)
	first.Behave(Manner{Refuse: true})
	w.sendUntilArrives("statsd", second)
	far.vanish()
	w.staysWith("statsd", second, 12*time.Second)
	w.saidOnce(first.Addr)
}

// udpRefusesLate: a refusal needs as long as the way there and back.
func udpRefusesLate(t *testing.T) {
	network := newNowhere(t, 120*time.Millisecond)
	first := fmt.Sprintf("%s:%d", network.late, FreePort(t))
	second := StartReceiver(t, receiverSpec{Network: "udp"}, Manner{})
	w := startWayOut(t, daemonPlan{statsd: to("udp://"+first, second.URL)})
	w.counts(second)
	w.sendUntilArrives("statsd", second)
	w.staysWith("statsd", second, 12*time.Second)
	w.saidOnce(first)
}
