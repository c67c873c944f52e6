package proxy

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/pulse"
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
func TestLoops(t *testing.T) {
	names := &stuckNames{fakeNames: holding("Denali"), asked: make(chan struct{}), going: make(chan struct{})}
	r := start(t, testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}}), names)
	now := time.Now()
	stuck := func() pulse.Loop {
		watch := pulse.Watch{Limit: time.Minute}
		for range 4 {
			if loop := watch.Stuck(now, r.Proxy.Loops()); loop != nil {
				return loop
			}
			now = now.Add(25 * time.Second)
		}
		return nil
	}
	eventually(t, "no loop is stuck", func() bool { return stuck() == nil })
	names.isStuck.Store(true)
	names.set(nil, membership.Claiming) // the namer asks again
	<-names.asked
	names.isStuck.Store(false)
	if loop := stuck(); loop != &r.Proxy.namer.pulse {
		t.Errorf("the namer stands still: %v is stuck", loop)
	}
	close(names.going)
	eventually(t, "the namer goes on", func() bool { return stuck() == nil })
}
