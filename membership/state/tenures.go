package state

import (
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// Tenures are what a holder knows of its own, the latest last.
type Tenures []Tenure

const ownTenuresKept = 256

// Find returns the tenure of a record, nil if it is not one of ours.
func (d Tenures) Find(t pool.Tenure) *Tenure {
	i := slices.IndexFunc(d, func(own Tenure) bool { return own.Name == t.Name && own.Record == t.ID })
	if i < 0 {
		return nil
	}
	return &d[i]
}

// Begin adds the tenure t, or continues it. It removes what is too old to matter.
func (d *Tenures) Begin(t pool.Tenure, start int64, now time.Time) {
	if own := d.Find(t); own != nil {
		own.Start, own.End = start, 0
		return
	}
	old := now.Add(-pool.TenuresKept).Unix()
	*d = slices.DeleteFunc(*d, func(own Tenure) bool { return own.End != 0 && own.End < old })
	*d = append(*d, Tenure{Name: t.Name, Record: t.ID, Start: start})
	*d = (*d)[max(len(*d)-ownTenuresKept, 0):]
}

// AddUnused adds the tenure t, unless it is known: nothing was sent under it, and no second is its.
func (d *Tenures) AddUnused(t pool.Tenure) {
	if d.Find(t) == nil {
		start := pool.FirstSecond(t.From)
		*d = append(*d, Tenure{Name: t.Name, Record: t.ID, Start: start, End: start - 1})
	}
}

// EndAt sets the last second. Even if the clock was set back, that is not before the start.
func (own *Tenure) EndAt(to time.Time) { own.End = max(to.Unix(), own.Start-1) }

// Others returns those of ts that are not ours.
func (d Tenures) Others(ts []pool.Tenure) []pool.Tenure {
	return slices.DeleteFunc(slices.Clone(ts), func(t pool.Tenure) bool { return d.Find(t) != nil })
}
