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
// Otherwise they are doubtful: the name is used one TTL after the claim, when
// nobody can have renewed in time any more, or as soon as the missing ends are on
// record.

// electionAtLeast is less than an election takes. An answer names the term of the
// last entry that its member of etcd has applied: if a grant was answered in this
// time, that is the term of the leader which granted it. (A leader that hands its
// office over takes less; it does not stand still then.)
const electionAtLeast = 500 * time.Millisecond

// doubtful returns which of the tenures before got may be in use still.
func (h *Holder) doubtful(ctx context.Context, got claimed) []Tenure {
	doubtful := slices.DeleteFunc(slices.Clone(got.earlier), func(t Tenure) bool {
		own := h.diary.find(t)
		return !t.open() || own != nil && !own.Elsewhere
	})
	if len(doubtful) == 0 {
		return nil
	}
	err := h.request(ctx, func(ctx context.Context) (err error) {
		doubtful = slices.DeleteFunc(doubtful, func(t Tenure) (out bool) {
			// Whatever freed the name came before the claim, and so in its term at
			// the latest.
			if err == nil && t.term != 0 && t.term == got.term {
				out, err = h.store.isGone(ctx, t.Lease)
			}
			return out
		})
		return err
	})
	if err != nil {
		h.log.Warn("whether the last holder has let go is not known", "name", got.name, "err", err)
	}
	return doubtful
}

// date sets from which second on the tenure has the name, and whose those before
// were.
func (h *Holder) date(held *tenancy) {
	from, now := held.answered.Add(held.unused()), h.wall()
	others := slices.DeleteFunc(h.diary.others(held.earlier), func(t Tenure) bool { return t.inFuture(now) })
	held.start = firstSecond(from)
	for _, t := range others {
		if t.open() {
			held.start = max(held.start, firstSecond(from.Add(margin(cmp.Or(t.ttl, held.ttl)))))
		} else {
			held.start = max(held.start, t.To.Unix()+1)
		}
	}
	if own := h.diary.find(held.tenure); own != nil {
		held.start = min(held.start, own.Start)
	}
	held.history = newHistory(held.start, held.Name, h.diary.spans(held.tenure), others, held.cut)
}

// lookBack finds out whether the doubtful tenures before held have their ends on
// record by now. What it learns makes held another *Claim: nobody has used the
// one before.
func (h *Holder) lookBack(ctx context.Context, held *tenancy) {
	ctx, cancel := context.WithTimeout(ctx, renewTime(held.ttl))
	defer cancel()
	ts, _, err := h.store.tenures(ctx, held.Name)
	if err != nil {
		return // the next renewal comes soon
	}
	doubts := len(held.doubtful)
	for _, t := range slices.DeleteFunc(ts, Tenure.open) {
		known := func(before Tenure) bool { return before.id == t.id }
		if i := slices.IndexFunc(held.earlier, known); i >= 0 {
			held.earlier[i] = t
		}
		held.doubtful = slices.DeleteFunc(held.doubtful, known)
	}
	if len(held.doubtful) == doubts {
		return
	}
	held.Claim = held.anew()
	h.date(held)
	h.note(held)
	h.claim.Store(held.Claim)
	h.notify()
}
