package membership

import (
	"cmp"
	"context"
	"slices"
	"time"
)

// A name is free when its key is gone, and that its last holder uses it no more
// is another question: somebody may have deleted the key, and a leader of etcd
// that stood still for long and goes on may revoke a lease that the next leader
// has renewed (https://github.com/etcd-io/etcd/issues/15247). So a name that was
// claimed is used at once only if those before
//
//   - were our own, of this boot: one process at a time has the state; or
//   - have put their ends on record: they let go before they write it; or
//   - ran out: their lease is gone, and one leader counted all of its time.
//
// Otherwise it is used one TTL after the claim, when nobody can have renewed in
// time any more, or as soon as the missing ends are on record.

// electionAtLeast is less than an election takes: if a grant was answered in
// this time, the leader that granted it is the one whose term the answer has.
const electionAtLeast = 500 * time.Millisecond

// doubtful returns which of the tenures before got may be in use still.
func (h *Holder) doubtful(ctx context.Context, got claimed) []Tenure {
	open := slices.DeleteFunc(slices.Clone(got.earlier), func(t Tenure) bool {
		own := h.diary.find(t)
		return !t.open() || own != nil && !own.elsewhere
	})
	for len(open) > 0 && h.ranOut(ctx, open[0]) {
		open = open[1:]
	}
	return open
}

func (h *Holder) ranOut(ctx context.Context, t Tenure) (out bool) {
	err := h.request(ctx, func(ctx context.Context) (err error) {
		out, err = h.store.ranOut(ctx, t)
		return err
	})
	return out && err == nil
}

// doubtedFor returns how long a name that was claimed now is not used because
// of doubtful tenures before, each of which lasts a TTL of its own at most.
func doubtedFor(doubtful []Tenure, ttl time.Duration) (d time.Duration) {
	for _, t := range doubtful {
		d = max(d, cmp.Or(t.ttl, ttl))
	}
	return d
}

// date sets from which second on the tenure has the name, and whose those before
// were. The last holder may have used it up to the end that it recorded by its
// own clock, or else up to from; a clock that is far ahead is not believed.
func (h *Holder) date(held *tenancy, from, now time.Time) {
	others := h.diary.others(held.earlier)
	held.start = firstSecond(from)
	for _, t := range others {
		held.start = max(held.start, min(t.To.Unix()+1, firstSecond(now.Add(clocksApart))))
	}
	if own := h.diary.find(held.tenure); own != nil {
		held.start = min(held.start, own.Start)
	}
	held.past = newPast(held.start, held.Name, h.diary.spans(held.tenure), others, held.cut)
}

// lookBack finds out whether the doubtful tenures before held have their ends on
// record by now. If all have, held may be used, and is another *Claim: nobody
// has used the one before.
func (h *Holder) lookBack(ctx context.Context, held *tenancy) {
	var ts []Tenure
	err := h.request(ctx, func(ctx context.Context) (err error) {
		ts, held.cut, err = h.store.tenures(ctx, held.Name)
		return err
	})
	if err != nil {
		return // the next renewal comes soon
	}
	held.earlier = slices.DeleteFunc(ts, func(t Tenure) bool { return t.id == held.tenure.id })
	held.doubtful = slices.DeleteFunc(held.doubtful, func(doubted Tenure) bool {
		return slices.ContainsFunc(held.earlier, func(t Tenure) bool { return t.id == doubted.id && !t.open() })
	})
	if len(held.doubtful) > 0 {
		return
	}
	held.Claim = held.anew()
	held.usableFrom = held.cautious
	h.date(held, held.from, h.wall())
	h.note(held)
	h.claim.Store(held.Claim)
}
