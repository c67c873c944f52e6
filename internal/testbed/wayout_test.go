//go:build linux

package testbed

import (
	"sync"
	"testing"
	"time"
)

// A scenario is one way in which upstreams misbehave. It mostly waits.
type scenario struct {
	name string
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
}

func TestWayOut(t *testing.T) {
	slots := make(chan struct{}, atOnce)
	var running sync.WaitGroup
	defer running.Wait()
	for _, s := range scenarios {
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
	plan, list := daemonPlan{}, to(first.URL, second.URL)
	if protocol == "carbon" {
		plan.carbon = list
	} else {
		plan.statsd = list
	}
	w = startWayOut(t, plan)
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
