package membership

import (
	"testing"
	"time"
)

// A state directory whose disk hangs costs no renewal: the claim is good past the
// horizon that it began with.
func TestDiskThatHangs(t *testing.T) {
	t.Parallel()
	state := newState(t, t.TempDir())
	state.writing.Lock() // a write that has begun does not end
	h := start(t, newClient(t, sharedEtcd), waitingConfig(t), state)
	c := h.held(t)
	past := time.NewTimer(c.Left() + time.Second)
	<-past.C
	if got, ok := h.Current(); got != c || !ok {
		t.Errorf("past the horizon of the grant: claim %p good %v, want %p true", got, ok, c)
	}
	state.writing.Unlock()
	h.stop()
}
