package testbed

import (
	"context"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
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
	var err error
	if !within(t.Context(), patience, func() bool { err = check(); return err == nil }) {
		t.Fatalf("%s: not within %v: %v", what, patience, err)
	}
}

// within waits until ok, and says whether it came to that in time. It looks soon again at first,
// and ever later: dozens of tests wait at once, most of them for seconds.
func within(ctx context.Context, d time.Duration, ok func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for nap := 2 * time.Millisecond; !ok(); nap = min(nap*5/4, 100*time.Millisecond) {
		if !retry.Sleep(ctx, nap) {
			return false
		}
	}
	return true
}
