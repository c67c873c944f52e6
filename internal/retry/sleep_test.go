package retry

import (
	"context"
	"testing"
	"time"
)

func TestSleepLong(t *testing.T) {
	const d = 20 * time.Millisecond
	began := time.Now()
	if !SleepLong(t.Context(), d) || time.Since(began) < d {
		t.Errorf("it ended after %v", time.Since(began))
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(d, cancel)
	if SleepLong(ctx, time.Hour) {
		t.Error("it does not say that ctx has ended")
	}
	if SleepLong(ctx, time.Hour) {
		t.Error("it does not see that ctx had ended")
	}
}
