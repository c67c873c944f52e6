package proxy

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
)

// stuckNames does not answer while it is stuck: who asks it stands still.
type stuckNames struct {
	*fakeNames
	isStuck      atomic.Bool
	asked, going chan struct{}
}

func (s *stuckNames) State() membership.State {
	if s.isStuck.Load() {
		s.asked <- struct{}{}
		<-s.going
	}
	return s.fakeNames.State()
}

// A proxy whose loops run is alive; one whose namer stands still is not.
func TestAlive(t *testing.T) {
	names := &stuckNames{fakeNames: holding("Denali"), asked: make(chan struct{}), going: make(chan struct{})}
	r := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}}), names)
	eventually(t, "the proxy runs", r.Proxy.running.Load)
	for range 2 {
		if err := r.Proxy.Alive(t.Context()); err != nil {
			t.Errorf("a proxy at work: %v", err)
		}
	}
	names.isStuck.Store(true)
	names.set(nil, membership.Claiming) // the namer asks again
	<-names.asked
	names.isStuck.Store(false)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r.Proxy.Alive(ctx) == nil {
		t.Error("a proxy whose namer stands still is alive")
	}
	close(names.going)
	if err := r.Proxy.Alive(t.Context()); err != nil {
		t.Errorf("a proxy that goes on: %v", err)
	}
}
