package membership

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// A name is free when its key is gone. Whether its last holder has stopped using it is another
// question: somebody may have deleted the key, and a leader of etcd that stood still for long and
// then goes on may revoke a lease that the next leader has renewed
// (https://github.com/etcd-io/etcd/issues/15247). So a name that was claimed is used at once only
// if its earlier tenures
//
//   - were our own, of this boot: one process at a time has the state; or were claimed under a
//     lease that etcd granted us, by a request whose answer we never got; or
//   - have put their ends on record: they let go before they write it; or
//   - ran out: their lease is gone, and one leader counted all of its time.
//
// Otherwise there is a doubt: the name is used one TTL after the claim, when nobody can have
// renewed in time any more, or as soon as the missing ends are on record.

// A doubt is a reason why a claim is not used yet: somebody else may be using the name.
type doubt struct {
	until  time.Duration // by now
	why    string
	record string // of the tenure whose end ends it sooner; "": none does
}

// The reasons.
const (
	whyNoEnd    = "the last holder has not said that it let go"
	whyDataLoss = "etcd lost data, and with it who else may hold it"
	whyCopied   = "the state directory was copied, or this is another boot"
	whyBefore   = "our last process did not use it yet either"
)

// doubt adds one that lasts for d from the claim on.
func (t *tenancy) doubt(d time.Duration, why, record string) {
	if d > 0 {
		t.doubts = append(t.doubts, doubt{t.at + d, why, record})
	}
}

// usable returns from when on the claim may be used, and what delays it until then.
func (t *tenancy) usable() (from time.Duration, because string) {
	from = t.at
	for _, d := range t.doubts {
		if d.until > from {
			from, because = d.until, d.why
		}
	}
	return from, because
}

func (t *tenancy) usableFrom() time.Duration {
	from, _ := t.usable()
	return from
}

// unused returns for how long after the claim it is not used.
func (t *tenancy) unused() time.Duration { return t.usableFrom() - t.at }

// isShared says whether the former holder uses the name under this very claim, or has lost it
// with etcd's data: then its end must not free the name.
func (t *tenancy) isShared(now time.Duration) bool {
	return slices.ContainsFunc(t.doubts, func(d doubt) bool { return d.record == "" && now < d.until })
}

// electionAtLeast is less than an election takes. An answer contains the term of the last entry
// that the member has applied: if a grant was answered in this time, that is the term of the
// leader which granted it. (A leader that hands over its office takes less time; but it does not
// stand still.)
const electionAtLeast = 500 * time.Millisecond

// unended returns which of the tenures before got may still be in use.
func (h *Holder) unended(ctx context.Context, got claimed) []pool.Tenure {
	open := slices.DeleteFunc(slices.Clone(got.earlier), func(t pool.Tenure) bool {
		own := h.own.Tenures.Find(t)
		return !t.Open() || own != nil && !own.Elsewhere
	})
	if len(open) == 0 {
		return nil
	}
	err := h.request(ctx, func(ctx context.Context) (err error) {
		open = slices.DeleteFunc(open, func(t pool.Tenure) (out bool) {
			// Whatever freed the name came before the claim, and so at the latest in its
			// term.
			if err == nil && t.Term != 0 && t.Term == got.term {
				out, err = h.store.isGone(ctx, t.Lease)
			}
			return out
		})
		return err
	})
	if err != nil {
		h.log.Warn("whether the last holder has let go is not known", "name", got.tenure.Name, "err", err)
	}
	return open
}

// date sets from which second on the name belongs to the tenure, and to whom the earlier seconds
// belong.
func (h *Holder) date(held *tenancy) {
	from, now := held.answered.Add(held.unused()), h.wall()
	others := slices.DeleteFunc(h.own.Tenures.Others(held.earlier), func(t pool.Tenure) bool { return t.InFuture(now) })
	held.start = pool.FirstSecond(from)
	for _, t := range others {
		if t.Open() {
			held.start = max(held.start, pool.FirstSecond(from.Add(margin(cmp.Or(t.TTL, held.under.ttl)))))
		} else {
			held.start = max(held.start, t.To.Unix()+1)
		}
	}
	if own := h.own.Tenures.Find(held.tenure); own != nil {
		held.start = min(held.start, own.Start)
	}
	held.history = newHistory(held.start, held.name, h.own.Tenures, others, held.cut)
}

// lookBack finds out whether the doubted tenures before held have their ends on record by now.
// What it learns makes held another *Claim: nobody has used the one before.
func (h *Holder) lookBack(ctx context.Context, held *tenancy) {
	if !slices.ContainsFunc(held.doubts, func(d doubt) bool { return d.record != "" }) {
		return
	}
	var ts []pool.Tenure
	err := h.within(ctx, renewTime(held.under.ttl), func(ctx context.Context) (err error) {
		ts, _, err = h.store.tenures(ctx, held.name)
		return err
	})
	if err != nil {
		return // the next renewal comes soon
	}
	doubts := len(held.doubts)
	for _, t := range slices.DeleteFunc(ts, pool.Tenure.Open) {
		if i := slices.IndexFunc(held.earlier, func(before pool.Tenure) bool { return before.ID == t.ID }); i >= 0 {
			held.earlier[i] = t
		}
		held.doubts = slices.DeleteFunc(held.doubts, func(d doubt) bool { return d.record == t.ID })
	}
	if len(held.doubts) == doubts {
		return
	}
	held.Claim = held.anew()
	h.date(held)
	h.note(held)
	h.setClaim(held.Claim)
}

// closeCrashed finds out when those of our tenures ended that a crash left open, now that got has
// been claimed: when somebody else claimed the name, or else no earlier than now. It asks etcd
// only if we got another name than before.
func (h *Holder) closeCrashed(ctx context.Context, got claimed, now time.Time) error {
	for i := range h.own.Tenures {
		own := &h.own.Tenures[i]
		if own.End != 0 || own == h.own.Tenures.Find(got.tenure) {
			continue
		}
		after := append(slices.Clone(got.earlier), got.tenure)
		if own.Name != got.tenure.Name {
			err := h.request(ctx, func(ctx context.Context) (err error) {
				after, _, err = h.store.tenures(ctx, own.Name)
				return err
			})
			if err != nil {
				return err
			}
		}
		own.EndAt(crashedAt(own, after, now))
	}
	return nil
}

// crashedAt returns until when the seconds of own are certainly ours, by the tenures of its
// name: others may have recorded a later end than it had.
func crashedAt(own *state.Tenure, ts []pool.Tenure, now time.Time) time.Time {
	to := now
	at := slices.IndexFunc(ts, func(t pool.Tenure) bool { return t.ID == own.Record })
	for i, t := range ts {
		if i == at && !t.Open() && t.To.Before(to) {
			to = t.To
		}
		if i > at && t.From.Before(to) && (at >= 0 || t.ID > own.Record) {
			to = t.From
		}
	}
	return to
}
