package membership

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// records writes about tenures beside the goroutine that renews: it puts their ends, and prunes. No
// write waits for another. What can't be done is left to the name's next holder.
type records struct {
	all     sync.WaitGroup
	timeOut time.Duration // of one request
	jitter  retry.Jitter
	log     *slog.Logger
}

const recordTries = 5

// write tries to do something about name, after a wait, until it is done or given up.
func (r *records) write(ctx context.Context, name string, wait time.Duration, do func(context.Context) error) {
	r.all.Go(func() {
		backoff := retry.Backoff{Jitter: r.jitter}
		for ; retry.Sleep(ctx, wait); wait = backoff.Next() {
			trying, cancel := context.WithTimeout(ctx, r.timeOut)
			err := do(trying)
			cancel()
			if err == nil || ctx.Err() != nil {
				return
			}
			if backoff.Failures == recordTries-1 {
				r.log.Warn("record not written", "name", name, "err", err)
				return
			}
		}
	})
}

// firstWord is how long the holder of a name leaves it to the one before to record how its tenure
// ended: that one finds out at its next renewal, and knows why.
const firstWord = 2 * maxRenewEvery

// tidy arranges for the missing ends of tenures before ours to be written, now that we use the
// name and nobody else does, and for what is too old or too much to be pruned. Mostly there is
// neither.
func (h *Holder) tidy(ctx context.Context, held *tenancy) {
	name, claim := held.name, held.Claim
	if ends := held.ends(); len(ends) > 0 {
		h.records.write(ctx, name, firstWord, func(ctx context.Context) error {
			for _, t := range ends {
				if err := h.store.recordEnd(ctx, t, claim); err != nil {
					return err
				}
			}
			return nil
		})
	}
	before := keptSince(held.earlier, h.cfg.Owner, h.wall())
	if held.cut || len(held.earlier) > 0 && held.earlier[0].From.Before(before) {
		h.records.write(ctx, name, 0, func(ctx context.Context) error { return h.store.prune(ctx, name, before) })
	}
	held.earlier, held.cut, held.doubts = nil, false, nil // once is enough
}

// keptSince returns the time before which a name's tenures are too old to keep. Our clock alone
// does not decide: two other hosts must have claimed the name that much later. The zero time is
// before everything.
func keptSince(earlier []pool.Tenure, owner string, now time.Time) time.Time {
	latest := make(map[string]time.Time)
	for _, t := range earlier {
		if t.Owner != owner && !t.InFuture(now) && t.From.After(latest[t.Owner]) {
			latest[t.Owner] = t.From
		}
	}
	others := slices.SortedFunc(maps.Values(latest), func(a, b time.Time) int { return b.Compare(a) })
	if len(others) < 2 {
		return time.Time{}
	}
	return others[1].Add(-pool.TenuresKept)
}

// ends returns the tenures before t that have no end on record, with the latest
// that they can have had: our start, of one that surely ran out before; or else a
// TTL after their successor's, who may have waited in vain, or our first use.
func (t *tenancy) ends() (ends []pool.Tenure) {
	began := t.answered.Add(t.unused())
	if t.goesOn {
		began = time.Unix(t.start, 0)
	}
	for i, closed := range pool.CloseByNext(append(slices.Clone(t.earlier), t.tenure)) {
		if i == len(t.earlier) || !t.earlier[i].Open() {
			continue
		}
		doubted := slices.ContainsFunc(t.doubts, func(d doubt) bool { return d.record == closed.ID })
		if i+1 < len(t.earlier) || doubted || t.goesOn {
			to := closed.To.Add(cmp.Or(closed.TTL, t.under.ttl))
			if to.After(began) {
				to = began
			}
			closed = closed.End(to, closed.Ended)
		}
		ends = append(ends, closed)
	}
	return ends
}
