package membership

import (
	"context"
	"errors"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// keep renews held until it is lost, or ctx ends.
func (h *Holder) keep(ctx context.Context, held *tenancy) {
	defer h.store.stopRenewing()
	every := renewEvery(held.under.ttl)
	suspended := !held.Valid()
	backoff := retry.Backoff{Jitter: h.jitter}
	next := held.under.sent + every
	for h.sleep(ctx, next-h.now()) {
		// 1. Renew. The horizon counts from before the request.
		sent := h.now()
		err := h.within(ctx, renewTime(held.under.ttl), func(ctx context.Context) error { return h.store.renew(ctx, held.Claim) })
		if !suspended && !held.Valid() { // perhaps because we were stopped
			suspended = true
			h.log.Warn("name suspended", "name", held.name, "meanwhile", "lines that need it wait")
		}

		// 2. Lost, or asked for: let go at once, whatever the horizon.
		if errors.Is(err, errAsked) {
			h.yield(ctx, held)
			return
		}
		if loss, lost := errors.AsType[Loss](err); lost {
			h.lose(ctx, held, loss)
			return
		}
		if ctx.Err() != nil {
			return
		}

		// 3. Failed: again, on the next member at once and then less often.
		if err != nil {
			h.outage.failed(err, backoff.Failures)
			next = sent + backoff.Next()
			continue
		}

		// 4. Renewed.
		h.outage.over()
		backoff.Reset()
		held.under.sent = sent
		next = min(sent+every, h.now()+retry.ToBeat(every))
		if from := held.usableFrom(); from > sent {
			next = min(next, from)
		}
		if h.now() < held.usableFrom() {
			h.lookBack(ctx, held)
		}
		if h.extend(held) {
			suspended = false
			h.notify()
			h.log.Info("name in use", "name", held.name)
			h.tidy(ctx, held)
		}
	}
}

func renewEvery(ttl time.Duration) time.Duration { return min(ttl/6, maxRenewEvery) }

// renewTime bounds each of the requests that are made at a renewal.
func renewTime(ttl time.Duration) time.Duration { return min(max(ttl/6, time.Second), 10*time.Second) }

// lose ends a claim that is no longer ours. Its lease, if there is still one, is revoked before the
// next claim, but after the end is on record.
func (h *Holder) lose(ctx context.Context, held *tenancy, loss Loss) {
	h.count(func(s *Stats) { s.Losses[loss]++ }) // before anybody who hears of it asks why
	h.letGo(Claiming)
	end := h.endOf(held, string(loss), func(ctx context.Context, t pool.Tenure) error { return h.store.recordEnd(ctx, t, nil) })
	if loss == Expired {
		h.records.write(ctx, held.name, 0, end)
	} else {
		h.lease.end = end
	}
	h.lease.spent = true
	h.log.Warn("name lost", "name", held.name, "reason", string(loss), "meanwhile", "lines that need a name wait")
}

// lastWords is how long a claim may still be used after its name was asked for: longer than a
// user of the name may be busy with one write, so that what is under way has left by then.
const lastWords = 1500 * time.Millisecond

// yield lets go of a name that somebody asked us for, and stays away from it for one TTL.
func (h *Holder) yield(ctx context.Context, held *tenancy) {
	held.endBy(h.now() + lastWords)
	close(held.parting)
	h.sleep(ctx, held.Left())
	h.letGo(Claiming)
	h.log.Warn("name released on request (prefixproxy release)", "name", held.name, "away_for", held.under.ttl)
	h.avoid, h.avoidUntil = held.name, h.now()+held.under.ttl
	h.lease.spent = true
	h.own.Last = state.Claim{Pool: h.cfg.Pool} // a restart stays away, too
	h.free(context.WithoutCancel(ctx), held)
}

// free deletes the name of held, which nobody uses any more, and records that its tenure ended by
// choice. What can't be done is done before the lease is revoked: who finds no end takes it that
// the lease ran out, and that the name was not used for the last third of that.
func (h *Holder) free(ctx context.Context, held *tenancy) error {
	held.under.end = h.endOf(held, pool.Released, func(ctx context.Context, t pool.Tenure) error { return h.store.release(ctx, held.Claim, t) })
	return h.within(ctx, releaseTime/2, h.putEnd)
}

// errUnsaved is the error of a request that waited in vain for the state directory.
var errUnsaved = errors.New("the state directory has not taken the end of our last tenure yet")

// endOf ends the tenure of held, whose name is not used any more, for some reason. It returns what
// puts the end on record, once it is saved.
func (h *Holder) endOf(held *tenancy, why string, put func(context.Context, pool.Tenure) error) func(context.Context) error {
	until := h.wall().Add(min(held.Left(), 0))
	saved := h.own.End(held.tenure, until)
	return func(ctx context.Context) error {
		select {
		case <-saved:
			return put(ctx, held.tenure.End(until, why))
		case <-ctx.Done():
			return errUnsaved
		}
	}
}
