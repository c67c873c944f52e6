package membership

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// requests is how a holder asks etcd: each request bounded in time, what it tells of the
// way and of lost data noted, and the pulse beating. Run's goroutine owns it.
type requests struct {
	store    *store
	ttl      time.Duration // of the configuration
	now      clock
	jitter   retry.Jitter
	log      *slog.Logger
	pulse    pulse.Pulse // of Run
	outage   outage
	lostData dataLoss // the last one that we saw
}

// A dataLoss is what a holder makes of one that it saw.
type dataLoss struct {
	unmarked bool          // the marker is not left yet
	until    time.Duration // by now: a name that is claimed before is used one TTL later
}

// Turns counts the turns of Run's loop; it is odd while that is at work. Each piece of its
// work is a request that is bounded in time: a number that stays odd for half a minute is
// that of a loop which stands still.
func (r *requests) Turns() uint64 { return r.pulse.Turns() }

// sleep is sleep, at rest.
func (r *requests) sleep(ctx context.Context, d time.Duration) bool {
	r.pulse.Rest()
	defer r.pulse.Work()
	return retry.Sleep(ctx, d)
}

// request makes a request that belongs to a claim. It has a time-out of its
// own, which leaves half of the claim's usable time.
func (r *requests) request(ctx context.Context, f func(context.Context) error) error {
	return r.within(ctx, requestTime(r.ttl), f)
}

func (r *requests) within(ctx context.Context, timeOut time.Duration, f func(context.Context) error) error {
	r.pulse.Work()
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, timeOut)
	defer cancel()
	stop := r.outage.watch(r.store.Unreachable)
	err := f(ctx)
	stop()
	if !isAnswer(err) {
		err = r.store.Failed(err, begun)
	}
	r.checkDataLoss(err)
	return err
}

func requestTime(ttl time.Duration) time.Duration { return min(ttl/3, 20*time.Second) }

// checkDataLoss takes note when err says that etcd lost data: others may hold
// names that etcd knows nothing of any more, for one TTL at most. The marker,
// which we leave before we claim again, tells all who claim in that time, us
// among them.
func (r *requests) checkDataLoss(err error) {
	if errors.Is(err, DataLoss) {
		r.log.Error("etcd lost data: it was wiped, or restored from a backup", "hint", "for a while two hosts may have had one name: after the end of the old etcd, wait one TTL before the restored one starts")
		r.lostData = dataLoss{unmarked: true, until: r.now() + r.ttl}
	}
}
