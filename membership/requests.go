package membership

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// requests is how a holder asks etcd: each request has a time-out, what it shows of the
// connection and of lost data is noted, and the pulse beats. Run's goroutine owns it.
type requests struct {
	store    *store
	now      clock
	jitter   retry.Jitter
	pause    func(context.Context, time.Duration) bool // retry.Sleep, or SleepLong
	log      *slog.Logger
	pulse    pulse.Pulse // of Run
	outage   outage
	lostData dataLoss // the last one that we saw
}

// A dataLoss is what a holder remembers of one that it saw.
type dataLoss struct {
	unmarked bool          // the marker is not left yet
	until    time.Duration // by now: a name that is claimed before is used one TTL later
}

// Turns counts the turns of Run's loop; it is odd while the loop is at work. Each piece of work is
// a request with a time-out, so if the number stays odd for half a minute, the loop is stuck.
func (r *requests) Turns() uint64 { return r.pulse.Turns() }

// sleep waits for d, or until ctx ends, and returns whether ctx has not. The loop is at rest meanwhile.
func (r *requests) sleep(ctx context.Context, d time.Duration) bool {
	r.pulse.Rest()
	defer r.pulse.Work()
	return r.pause(ctx, d)
}

// request makes a request that belongs to a claim. Its time-out leaves half of the claim's usable
// time.
func (r *requests) request(ctx context.Context, f func(context.Context) error) error {
	return r.within(ctx, requestTime(r.store.cfg.TTL), f)
}

func (r *requests) within(ctx context.Context, timeOut time.Duration, f func(context.Context) error) error {
	r.pulse.Work()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeOut)
	defer cancel()
	if !r.outage.heard {
		defer time.AfterFunc(patience, r.sayWhy).Stop()
		defer time.AfterFunc(2*patience, r.sayWhy).Stop() // to connect takes 2 s at most
	}
	err := f(ctx)
	if !isAnswer(err) && !errors.Is(err, errUnsaved) {
		err = r.store.Failed(err, begun)
	}
	r.checkDataLoss(err)
	return err
}

// patience is how long the first request may wait for a connection in silence; the request itself
// waits for longer than a person who has just started us.
const patience = 1200 * time.Millisecond

// sayWhy says why there is no connection, if that is known.
func (r *requests) sayWhy() {
	if err := r.store.Unreachable(); err != nil {
		r.outage.failed(err, 1)
	}
}

func requestTime(ttl time.Duration) time.Duration { return min(ttl/3, 20*time.Second) }

// checkDataLoss notes when err says that etcd lost data: for up to one TTL, others may hold names
// of which etcd no longer knows. The marker, which we leave before we claim again, tells everybody
// who claims in that time, including us.
func (r *requests) checkDataLoss(err error) {
	if errors.Is(err, DataLoss) {
		r.log.Error("etcd lost data: it was wiped, or restored from a backup", "hint", "for a while two hosts may have had one name: after the end of the old etcd, wait one TTL before the restored one starts; if nobody restored it, see whether etcd.endpoints name two clusters")
		r.lostData = dataLoss{unmarked: true, until: r.now() + r.store.cfg.TTL}
	}
}
