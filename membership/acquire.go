package membership

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// A tenancy is the claim that Run keeps, with what others need not see of it.
type tenancy struct {
	*Claim
	claimed        // without doubts, and what was earlier, once these are tidied
	under   *lease // Run's

	// When the claim was answered, by now and by the wall clock; and why it is not
	// used from then on.
	at       time.Duration
	answered time.Time
	doubts   []doubt

	goesOn bool  // its tenure began before the claim, in the last process
	start  int64 // the tenure's first whole second, by the wall clock
}

// acquire returns a new claim, which Current returns from then on; nil when ctx has ended.
func (h *Holder) acquire(ctx context.Context) *tenancy {
	backoff := retry.Backoff{Jitter: h.jitter}
	h.mark(ctx) // before it is our turn
	h.sleep(ctx, h.spread())
	for ctx.Err() == nil {
		held, err := h.attempt(ctx)
		if errors.Is(err, ErrNoFreeName) {
			h.outage.over()
			began := h.now()
			if err = h.wait(ctx); h.now()-began > maxRenewEvery { // what ends a long wait is no failure after the last
				backoff.Reset()
			}
		}
		if errors.Is(err, DataLoss) && h.lease != nil {
			h.lease.spent = true // a backup may have it, and terms begin anew
		}
		switch {
		case held != nil:
			h.outage.over()
			h.hold(ctx, held)
			return held
		case ctx.Err() != nil:
		case err == nil: // a name was freed
			backoff.Reset()
		default:
			h.failed(err, backoff.Failures)
			h.sleep(ctx, backoff.Next())
		}
	}
	return nil
}

// spread returns how long to wait before the first claim. In a pool with a long list all hosts
// may start at once, and those that come later ask for less.
func (h *Holder) spread() time.Duration {
	if len(h.cfg.Names) <= namesPerTxn || h.own.Before != nil {
		return 0
	}
	return h.jitter(time.Duration(len(h.cfg.Names)) * 5 * time.Millisecond)
}

// attempt claims a name once.
func (h *Holder) attempt(ctx context.Context) (*tenancy, error) {
	// 1. Tell the pool of a data loss before claiming in it.
	if err := h.mark(ctx); err != nil {
		return nil, err
	}
	// 2. Get rid of a lease that is no longer any good.
	if h.lease != nil && h.lease.spent {
		if err := h.request(ctx, h.revoke); err != nil {
			return nil, err
		}
	}
	// 3. Get a lease, unless there is one from an attempt whose outcome is
	// unknown. Its time counts from here.
	if h.lease == nil {
		if err := h.request(ctx, h.grant); err != nil {
			return nil, err
		}
	}
	// 4. Claim under it, or find out what was claimed under it.
	var got claimed
	ask := asking{own: h.own.Before, from: h.wall(), look: h.waited, names: h.cfg.Names}
	if h.now() < h.avoidUntil {
		ask = ask.without(h.avoid)
	} else {
		h.avoid = ""
	}
	err := h.request(ctx, func(ctx context.Context) (err error) {
		got, err = h.store.claim(ctx, *h.lease, ask)
		return err
	})
	answered := h.wall()
	switch {
	case errors.Is(err, Expired):
		h.lease = nil
	case errors.Is(err, errNotOurs):
		h.lease.spent = true
	}
	if err != nil {
		return nil, err
	}
	// 5. Know our own past before anybody asks the claim which name a second belongs to.
	for _, t := range got.earlier {
		if slices.Contains(h.granted, t.Lease) { // claimed by a request whose answer never came
			h.own.Tenures.AddUnused(t)
		}
	}
	if err := h.closeCrashed(ctx, got, answered); err != nil {
		return nil, err
	}
	return h.tenancyOf(ctx, got, answered), nil
}

// mark tells the pool of a data loss, if that is not done yet.
func (h *Holder) mark(ctx context.Context) error {
	if !h.lostData.unmarked {
		return nil
	}
	err := h.request(ctx, h.store.mark)
	h.lostData.unmarked = err != nil
	return err
}

func (h *Holder) grant(ctx context.Context) error {
	sent := h.now()
	l, err := h.store.grant(ctx)
	if err != nil {
		return err
	}
	l.sent = sent
	if h.now()-sent > electionAtLeast {
		l.term = 0 // the leader that granted it may not be the one that was named
	}
	h.lease = &l
	h.granted = append(h.granted, l.id)
	h.granted = h.granted[max(len(h.granted)-pool.EarlierTenures, 0):]
	return nil
}

func (h *Holder) revoke(ctx context.Context) error {
	err := h.putEnd(ctx)
	if err == nil {
		err = h.store.revoke(ctx, h.lease.id)
	}
	if err == nil {
		h.lease = nil
	}
	return err
}

// putEnd puts the end of the tenure under the lease on record, where that is not done yet.
func (h *Holder) putEnd(ctx context.Context) error {
	if h.lease.end == nil {
		return nil
	}
	err := h.lease.end(ctx)
	if err == nil {
		h.lease.end = nil
	}
	return err
}

// wait returns when a name was freed, or after a while. Meanwhile it keeps the lease, which
// shows that we wait, and notices when etcd can't be reached: then we are claiming, since nobody
// knows whether a name is free.
func (h *Holder) wait(ctx context.Context) error {
	h.enter(Waiting)
	if !h.waited {
		h.waited = true
		h.log.Warn("all names are taken; waiting for one", "names", len(h.cfg.Names), "meanwhile", "lines that need a name wait for some seconds, and are dropped then")
	}
	defer h.store.stopRenewing()
	var watching sync.WaitGroup
	defer watching.Wait()
	watch, cancel := context.WithTimeout(ctx, h.askAgain())
	defer cancel()
	freed, began := make(chan error, 1), time.Now()
	watching.Go(func() { freed <- h.store.awaitFree(watch) })
	backoff := retry.Backoff{Jitter: h.jitter}
	for next := time.Duration(0); ; {
		beat := time.NewTimer(next)
		h.pulse.Rest()
		select {
		case <-beat.C:
		case err := <-freed:
			if watch.Err() != nil {
				return ctx.Err()
			}
			return h.store.Failed(err, began)
		case <-ctx.Done():
			return ctx.Err()
		}
		sent := h.now()
		err := h.within(ctx, min(renewTime(h.lease.ttl), maxRenewEvery), func(ctx context.Context) error { return h.store.stay(ctx, h.lease.id) })
		switch {
		case err == nil:
			h.enter(Waiting)
			h.outage.over()
			backoff.Reset()
			h.lease.sent = sent
			next = renewEvery(h.lease.ttl)
		case errors.Is(err, Expired):
			h.lease = nil
			return nil
		case isAnswer(err):
			return err
		default:
			h.failed(err, backoff.Failures)
			next = sent + backoff.Next() - h.now()
		}
	}
}

// failed takes note of a request that failed, after so many others in a row.
func (h *Holder) failed(err error, before int) {
	h.enter(Claiming)
	switch {
	case !errors.Is(err, errUnsaved):
		h.outage.failed(err, before)
	case before == 0:
		h.log.Warn("no name is claimed before the state directory has taken the end of the last tenure", "meanwhile", "lines that need a name wait", "hint", "look at its disk")
	}
}

// askAgain returns how long to wait without news of a free name. Each host that waits asks at
// its own time.
func (h *Holder) askAgain() time.Duration {
	d := waitAtMost + h.jitter(waitAtMost)
	if h.avoid != "" { // it was not asked for, even if that would be right by now
		d = min(d, max(0, h.avoidUntil-h.now()))
	}
	return d
}

// tenancyOf returns the tenancy of what was claimed under h.lease and answered at that time.
func (h *Holder) tenancyOf(ctx context.Context, got claimed, answered time.Time) *tenancy {
	name, ttl := got.tenure.Name, h.lease.ttl
	held := &tenancy{
		Claim:   newClaim(name, pool.NamesKey(h.cfg.Pool)+name, h.lease.id, got.revision, cmp.Or(got.tenure.ID, pool.LeaseHex(h.lease.id)), h.now),
		claimed: got, under: h.lease, at: h.now(), answered: answered,
	}
	if got.marked || held.at < h.lostData.until {
		held.doubt(ttl, whyDataLoss, "")
	}
	switch {
	case got.takenOver && h.own.Before.Here: // nobody has used the name since we did
		held.goesOn = true
		held.doubt(h.own.Before.UsableFrom-held.at, whyBefore, "")
		if h.own.Before.UsableFrom <= held.at {
			held.horizon.Store(int64(held.at)) // and we may have, until now
		}
	case got.takenOver:
		held.doubt(max(ttl, min(h.own.Before.TTL, pool.MaxTTL)), whyCopied, "") // ours, or the other's
		fallthrough
	default:
		for _, t := range h.unended(ctx, got) {
			held.doubt(cmp.Or(t.TTL, ttl), whyNoEnd, t.ID)
		}
	}
	h.date(held)
	return held
}

// hold makes held the current claim.
func (h *Holder) hold(ctx context.Context, held *tenancy) {
	if own := h.own.Before; own != nil && own.Here && own.Lease != 0 && own.Lease != held.lease {
		// A request of its time may come late, and must claim nothing under it.
		h.records.write(ctx, held.name, 0, func(ctx context.Context) error { return h.store.revoke(ctx, own.Lease) })
	}
	h.own.Before = nil
	if h.waited {
		h.waited = false
		lease := held.lease
		h.records.write(ctx, held.name, 0, func(ctx context.Context) error { return h.store.leave(ctx, lease) })
	}
	h.count(func(s *Stats) { s.Claims++ })
	inUse := h.extend(held)
	h.setClaim(held.Claim)
	h.log.Info("name claimed", "name", held.name, "owner", h.cfg.Owner, "revision", held.Claim.revision)
	if from, why := held.usable(); from > h.now() {
		h.log.Warn("name not used yet, its last holder may still be there", "name", held.name, "because", why, "at_most", (from - h.now()).Round(time.Second))
	}
	h.note(held)
	if inUse {
		h.tidy(ctx, held)
	}
}

// note adds the claim to our own tenures, and to the state directory.
func (h *Holder) note(held *tenancy) {
	h.own.Tenures.Begin(held.tenure, held.start, h.wall())
	h.own.Remember(state.Claim{
		Pool: h.cfg.Pool, Name: held.name, Lease: held.lease, Revision: held.Claim.revision, TTL: held.under.ttl,
		Record: held.tenure.ID, Start: held.start,
		UsableFrom: held.usableFrom(),
	})
}
