package proxy

import (
	"runtime"
	"slices"
	"testing"
)

// Many reloads leave no goroutine and no descriptor behind.
func TestReloadLeaks(t *testing.T) {
	carbon, other := newSink(t, "tcp"), newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	p := start(t, cfg, holding("Denali"))
	more := cfg
	more.Listen.StatsD = append(slices.Clone(cfg.Listen.StatsD), Address{Network: "udp", Host: "localhost"}, Address{Network: "tcp", Host: "localhost"})
	more.Forward.Carbon[0].To = []Upstream{other.address}
	settled := func() int {
		eventually(t, "the upstream is up", func() bool { return p.Status().Upstreams[1].Up })
		return runtime.NumGoroutine()
	}
	before := settled()
	const reloads = 10
	for range reloads {
		reloaded(t, p, more)
		reloaded(t, p, cfg)
	}
	eventually(t, "less than one goroutine more for each reload", func() bool { return settled() < before+reloads })
	if n := p.poller.Sockets(); n != 4 { // the listeners
		t.Errorf("%d sockets are polled, want 4", n)
	}
}
