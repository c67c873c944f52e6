package membership

import (
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// An outage is a time during which etcd fails us. It is logged when it begins, when its cause
// changes, and when it is over.
type outage struct {
	log   *slog.Logger
	heard bool                   // etcd has answered once; Run's goroutine alone looks at it
	shown atomic.Pointer[Outage] // nil: there is none

	mu     sync.Mutex
	since  time.Time
	causes map[string]time.Time // when each that it has had was there last
}

// An Outage is a time during which etcd fails us.
type Outage struct {
	Since time.Time
	*etcd.Trouble
}

// Outage returns what is wrong with etcd, if its requests fail.
func (h *Holder) Outage() (Outage, bool) {
	if o := h.outage.shown.Load(); o != nil {
		return *o, true
	}
	return Outage{}, false
}

// failed takes note of a request that failed, after so many failures in a row before it. The first
// is not logged: it may be a broken stream, and another member is asked at once. Each member may fail
// in its own way, in turn: a cause is logged again only when it was absent for a minute.
func (o *outage) failed(err error, before int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	shown := o.shown.Load()
	if shown == nil && (before == 0 || o.since.IsZero()) {
		o.since = time.Now()
	}
	if _, answered := errors.AsType[Loss](err); answered || before == 0 {
		return
	}
	trouble, ok := errors.AsType[*etcd.Trouble](err)
	if !ok {
		trouble = &etcd.Trouble{What: "the request failed", Err: err}
	}
	last := o.causes[trouble.What]
	o.causes[trouble.What] = time.Now()
	if shown != nil && shown.What == trouble.What {
		return
	}
	o.shown.Store(&Outage{o.since, trouble})
	if time.Since(last) < time.Minute {
		return
	}
	about := []any{"cause", trouble.What, "endpoint", trouble.Endpoint, "err", trouble.Err, "meanwhile", "trying again and again"}
	if trouble.Hint != "" {
		about = append(about, "hint", trouble.Hint)
	}
	if trouble.Person {
		o.log.Error("etcd refuses us", about...)
	} else {
		o.log.Warn("etcd unreachable", about...)
	}
}

// over notes that a request succeeded.
func (o *outage) over() {
	o.heard = true
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.shown.Swap(nil) != nil {
		o.log.Info("etcd reachable again", "after", time.Since(o.since).Round(time.Millisecond))
		clear(o.causes)
	}
}
