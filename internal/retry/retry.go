// Package retry says when to do something again: what failed, or what is done every now and then.
package retry

import (
	"context"
	"math/rand/v2"
	"time"
)

// A Backoff spaces out attempts: the first after a failure comes at once, the
// others after 100 ms to 2 s, with jitter.
type Backoff struct {
	Jitter   Jitter
	Failures int
}

// A Jitter returns a random time from 0 to below d.
type Jitter func(d time.Duration) time.Duration

// Randomly is the usual Jitter.
func Randomly(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

// Reset begins anew, after a success.
func (b *Backoff) Reset() { b.Failures = 0 }

// Next returns how long to wait after one more failure.
func (b *Backoff) Next() time.Duration {
	b.Failures++
	if b.Failures == 1 {
		return 0
	}
	d := min(100*time.Millisecond<<min(b.Failures-2, 5), 2*time.Second)
	return d/2 + b.Jitter(d/2)
}

// Sleep waits for d; it returns false when ctx has ended.
func Sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
