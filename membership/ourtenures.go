package membership

import (
	"context"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// ownTenures is what a holder knows of its own tenures, the latest last. Run's goroutine owns
// them.
type ownTenures []ownTenure

const ownTenuresKept = 256

// find returns the tenure of a record, nil if it is not one of ours.
func (d ownTenures) find(t pool.Tenure) *ownTenure {
	i := slices.IndexFunc(d, func(own ownTenure) bool { return own.Name == t.Name && own.Record == t.ID })
	if i < 0 {
		return nil
	}
	return &d[i]
}

// begin adds the tenure t, or continues it. It removes what is too old to matter.
func (d *ownTenures) begin(t pool.Tenure, start int64, now time.Time) {
	if own := d.find(t); own != nil {
		own.Start, own.End = start, 0
		return
	}
	old := now.Add(-tenuresKept).Unix()
	*d = slices.DeleteFunc(*d, func(own ownTenure) bool { return own.End != 0 && own.End < old })
	*d = append(*d, ownTenure{Name: t.Name, Record: t.ID, Start: start})
	*d = (*d)[max(len(*d)-ownTenuresKept, 0):]
}

// end ends the tenure t.
func (d ownTenures) end(t pool.Tenure, to time.Time) {
	if own := d.find(t); own != nil {
		own.endAt(to)
	}
}

// endAt sets the last second. Even if the clock was set back, that is not before the start.
func (own *ownTenure) endAt(to time.Time) { own.End = max(to.Unix(), own.Start-1) }

// spans returns all tenures but t.
func (d ownTenures) spans(t pool.Tenure) []span {
	var spans []span
	for _, own := range d {
		if own.Name != t.Name || own.Record != t.ID {
			spans = append(spans, span{from: own.Start, to: own.End, name: own.Name})
		}
	}
	return spans
}

// others returns those of ts that are not ours.
func (d ownTenures) others(ts []pool.Tenure) []pool.Tenure {
	return slices.DeleteFunc(slices.Clone(ts), func(t pool.Tenure) bool { return d.find(t) != nil })
}

// closeCrashed finds out when those of our tenures ended that a crash left open, now that got has
// been claimed: when somebody else claimed the name, or else no earlier than now. It asks etcd
// only if we got another name than before.
func (h *Holder) closeCrashed(ctx context.Context, got claimed, now time.Time) error {
	for i := range h.ownTenures {
		own := &h.ownTenures[i]
		if own.End != 0 || own == h.ownTenures.find(got.tenure) {
			continue
		}
		after := append(slices.Clone(got.earlier), got.tenure)
		if own.Name != got.name {
			err := h.request(ctx, func(ctx context.Context) (err error) {
				after, _, err = h.store.tenures(ctx, own.Name)
				return err
			})
			if err != nil {
				return err
			}
		}
		own.endAt(own.crashedAt(after, now))
	}
	return nil
}

// crashedAt returns until when the tenure's seconds are certainly ours, by the tenures of its
// name: others may have recorded a later end than it had.
func (own *ownTenure) crashedAt(ts []pool.Tenure, now time.Time) time.Time {
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
