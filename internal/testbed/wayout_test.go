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
	{"resets after 0.3s", func(t *testing.T) { hangsUp(t, 200, Manner{HangUp: 300 * time.Millisecond, Reset: true}) }},
	{"hangs up after 3s", func(t *testing.T) { hangsUp(t, 50, Manner{HangUp: 3 * time.Second}) }},
	{"resets after 3s", func(t *testing.T) { hangsUp(t, 700, Manner{HangUp: 3 * time.Second, Reset: true}) }},
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
