package testbed

import (
	"context"
	"testing"
	"time"
)

// patience is how long a test waits for what must happen: long enough for a
// slow machine under load, short enough to end a test that waits in vain.
const patience = time.Minute

// eventually waits until check returns nil, and ends the test with check's last
// error when it never does.
func eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	eventuallyWithin(t, patience, what, check)
}

func eventuallyWithin(t testing.TB, patience time.Duration, what string, check func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
	}
}
