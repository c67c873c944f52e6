package proxy

import (
	"errors"
	"net"
	"runtime"
	"slices"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/inlet"
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
	var gone []*inlet.Listener
	for range reloads {
		reloaded(t, p, more)
		added := p.inlet.Listeners()
		reloaded(t, p, cfg)
		for _, l := range added {
			if !slices.Contains(p.inlet.Listeners(), l) {
				gone = append(gone, l)
			}
		}
	}
	eventually(t, "less than one goroutine more for each reload", func() bool { return settled() < before+reloads })
	for _, l := range gone {
		if _, err := l.KernelDrops(); err == nil || l.Address.Network == "udp" && !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s is open: %v", l.Address, err)
		}
	}
	if len(gone) == 0 {
		t.Error("no listener is gone")
	}
}
