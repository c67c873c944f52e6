package proxy

import (
	"context"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
)

// stuckNames never answers, from when it is stuck: who asks it stands still.
type stuckNames struct {
	*fakeNames
	asked, stuck chan struct{}
}

func (s *stuckNames) State() membership.State {
	select {
	case s.asked <- struct{}{}:
		<-s.stuck
	default:
	}
	return s.fakeNames.State()
}

// A proxy whose loops run is alive; one whose namer stands still is not.
func TestAlive(t *testing.T) {
	names := &stuckNames{fakeNames: holding("Denali"), asked: make(chan struct{}), stuck: make(chan struct{})}
	r := start(t, testConfig(Upstream{Network: "stdout"}, Upstream{Network: "stdout"}), names)
	eventually(t, "the proxy runs", r.Proxy.running.Load)
	for range 2 {
		if err := r.Proxy.Alive(t.Context()); err != nil {
			t.Errorf("a proxy at work: %v", err)
		}
	}
	names.set(nil, membership.Claiming) // the namer asks again
	<-names.asked
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r.Proxy.Alive(ctx) == nil {
		t.Error("a proxy whose namer stands still is alive")
	}
	close(names.stuck)
	if err := r.Proxy.Alive(t.Context()); err != nil {
		t.Errorf("a proxy that goes on: %v", err)
	}
}
