package aggregate

import (
	"math"
	"strconv"
	"strings"
	"time"
)

// IsFlushing says whether points of the sealed slot are still to be taken out.
func (a *Aggregator) IsFlushing() bool { return a.flushing }

// Sealed returns the slot that is being flushed, and how many series it has.
func (a *Aggregator) Sealed() (slot Slot, series int) { return a.sealed, a.sealedSeries }

// A taken series is what its points are made of.
type taken struct {
	name    string
	kind    kind
	value   float64 // of a counter or gauge; how many members a set has
	samples samples
	timer   *timer // whose samples they are
}

// Take takes at most n series out of the sealed slot, for Points. more is false when
// there are no others: then, and when all points are where they survive this process,
// Flushed is due. Series that have expired are forgotten.
func (a *Aggregator) Take(n int) (more bool) {
	a.recycle()
	for ; n > 0 && a.walk > 0; n-- {
		a.walk--
		s := a.order[a.walk]
		a.taken = append(a.taken, a.take(s))
		a.journal.keep(s, a.sealed.Seq)
		if a.isExpired(s) {
			a.forget(s, a.walk)
		}
	}
	return a.walk > 0
}

// recycle forgets what was taken.
func (a *Aggregator) recycle() {
	for _, t := range a.taken {
		if t.timer != nil && cap(t.samples.values) <= smallTimer {
			t.timer.spare = t.samples.values[:0]
		}
	}
	clear(a.taken)
	a.taken = a.taken[:0]
}

// take takes what a series has in the sealed slot.
func (a *Aggregator) take(s *series) taken {
	if s.seq != a.open.Seq {
		s.shift()
	}
	t := taken{name: s.name, kind: s.kind, value: s.old}
	switch s.kind {
	case counterKind:
		s.old = 0
	case timerKind:
		t.samples, t.timer = s.timer.old, s.timer
		s.timer.old = samples{}
		a.samples.give(t.samples.reserved)
		a.sketches.give(t.samples.sketched)
	case setKind:
		t.value = float64(len(s.set.old))
		for m := range s.set.old {
			a.series.give(int64(memberCost + len(m)))
		}
		s.set.old = nil
	}
	return t
}

// isExpired says whether a series is to be forgotten. Time in which nothing was counted
// at all does not make it older.
func (a *Aggregator) isExpired(s *series) bool {
	expire := int64(a.cfg.Expire / time.Second)
	return expire > 0 && (a.sealed.Seq-s.seq)*a.sealed.Interval >= expire
}

// forget takes a series out, which is the i-th. The last takes its place.
func (a *Aggregator) forget(s *series, i int) {
	a.series.give(costOf(len(s.name), s.kind))
	a.table.remove(s, a.table.hash([]byte(s.name)))
	last := len(a.order) - 1
	a.order[i], a.order[last] = a.order[last], nil
	a.order = a.order[:last]
}

// Flushed ends the flush: the slot's lines have left, and none of its points is made
// again. It returns how many lines that were.
func (a *Aggregator) Flushed() (lines int) {
	a.recycle()
	lines = a.sealed.Lines
	a.sealed, a.flushing = Slot{}, false
	a.journal.commit()
	return lines
}

// Points appends the points of what was taken last, as lines in which the mark stands
// for the name. Beside it lines may be logged and added.
func (a *Aggregator) Points(dst []byte) []byte {
	for i := range a.taken {
		t := &a.taken[i]
		head := heads[a.cfg.Layout][t.kind]
		switch {
		case t.kind == timerKind:
			a.values = a.statsOf(a.values[:0], &t.samples, float64(a.sealed.Interval))
			for _, s := range a.values {
				dst = a.point(dst, head, t.name, s.name, s.value)
			}
		case t.kind == gaugeKind:
			dst = a.point(dst, head, t.name, "", t.value)
		case t.kind == setKind:
			dst = a.point(dst, head, t.name, ".count", t.value)
		case a.cfg.Layout == Legacy:
			dst = a.point(dst, head, t.name, "", t.value/float64(a.sealed.Interval))
			dst = a.point(dst, "stats_counts.", t.name, "", t.value)
		default:
			dst = a.point(dst, head, t.name, ".count", t.value)
			dst = a.point(dst, head, t.name, ".rate", t.value/float64(a.sealed.Interval))
		}
	}
	return dst
}

// What stands before the name.
var heads = func() (all [Legacy + 1][setKind + 1]string) {
	all[StatsD] = [...]string{counterKind: "stats.counters.", gaugeKind: "stats.gauges.", timerKind: "stats.timers.", setKind: "stats.sets."}
	all[Legacy] = all[StatsD]
	all[Legacy][counterKind] = "stats."
	return all
}()

// point appends a point of a series: its tags stand behind the whole name. A value that
// is no number is left out.
func (a *Aggregator) point(dst []byte, head, name, tail string, v float64) []byte {
	if math.IsNaN(v) {
		return dst
	}
	path, tags := name, ""
	if i := strings.IndexByte(name, ';'); i >= 0 {
		path, tags = name[:i], name[i:]
	}
	dst = append(append(dst, head...), mark)
	if path != "" {
		dst = append(append(dst, '.'), path...)
	}
	dst = append(append(append(dst, tail...), tags...), ' ')
	dst = appendNumber(dst, v)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, a.sealed.Start, 10)
	return append(dst, '\n')
}
