package membership

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync/atomic"
	"time"
)

// An outage is the time during which etcd fails us. It is said when it begins,
// when its cause changes, and when it is over.
type outage struct {
	log    *slog.Logger
	now    clock
	since  time.Duration            // by now
	saying string                   // the cause of now; "" while there is no outage
	causes map[string]time.Duration // when each that it has had was there last

	shown atomic.Pointer[Outage] // what is said now, for others; nil: nothing
}

// An Outage is a time during which etcd fails us.
type Outage struct {
	Since time.Time // by the wall clock
	*Trouble
}

// Outage returns what is wrong with etcd, if its requests fail.
func (h *Holder) Outage() (Outage, bool) {
	if o := h.outage.shown.Load(); o != nil {
		return *o, true
	}
	return Outage{}, false
}

// failed takes note that a request failed, after so many failures before it.
// The first one says nothing: it may be a broken stream, and another member is
// asked at once. The members may fail us each in its own way, again and again: a cause
// is said anew when it has not been there for a minute.
func (o *outage) failed(err error, before int) {
	if o.saying == "" && before == 0 {
		o.since = o.now()
	}
	if _, answered := errors.AsType[Loss](err); answered || before == 0 {
		return
	}
	trouble, ok := errors.AsType[*Trouble](err)
	if !ok {
		trouble = &Trouble{What: "the request failed", err: err}
	}
	last, known := o.causes[trouble.What]
	o.causes[trouble.What] = o.now()
	if o.saying == trouble.What {
		return
	}
	o.saying = trouble.What
	o.shown.Store(&Outage{time.Now().Add(o.since - o.now()), trouble})
	if known && o.now()-last < time.Minute {
		return
	}
	about := []any{"cause", trouble.What, "endpoint", trouble.Endpoint, "err", trouble.err}
	if trouble.Hint != "" {
		about = append(about, "hint", trouble.Hint)
	}
	if trouble.Person {
		o.log.Error("etcd refuses us", about...)
	} else {
		o.log.Warn("etcd unreachable", about...)
	}
}

// over takes note that a request succeeded.
func (o *outage) over() {
	if o.saying == "" {
		return
	}
	o.log.Info("etcd reachable again", "after", (o.now() - o.since).Round(time.Millisecond))
	o.saying = ""
	clear(o.causes)
	o.shown.Store(nil)
}

// retries spaces out attempts: the first after a failure comes at once, the
// others after 100 ms to 2 s, with jitter.
type retries struct {
	jitter   jitter
	failures int
}

// A jitter returns a random time from 0 to below d.
type jitter func(d time.Duration) time.Duration

func randomly(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	return rand.N(d)
}

func (r *retries) reset() { r.failures = 0 }

// next returns how long to wait after one more failure.
func (r *retries) next() time.Duration {
	r.failures++
	if r.failures == 1 {
		return 0
	}
	d := min(100*time.Millisecond<<min(r.failures-2, 5), 2*time.Second)
	return d/2 + r.jitter(d/2)
}

// sleep waits for d; it returns false when ctx has ended.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}
