package aggregate

import (
	"math"
	"strconv"
	"time"
)

// IsFlushing says whether points of the sealed slot are still to be taken out.
func (a *Aggregator) IsFlushing() bool { return a.flushing }

// Sealed returns the slot that is being flushed.
func (a *Aggregator) Sealed() Slot { return a.sealed }

// Flush appends the points of at most n names to dst, as lines in which the mark stands
// for the name. more is false when there are no others: then, and when all of them are
// where they survive this process, Flushed is due.
func (a *Aggregator) Flush(dst []byte, n int) (points []byte, more bool) {
	for ; n > 0 && a.walk > 0; n-- {
		a.walk--
		e := a.order[a.walk]
		dst = a.flushEntry(dst, e)
		a.journal.keep(e, a.sealed.Start)
		if e.isEmpty() {
			a.series.give(int64(entryCost + len(e.name)))
			delete(a.entries, e.name)
			last := len(a.order) - 1
			a.order[a.walk], a.order[last] = a.order[last], nil
			a.order = a.order[:last]
		}
	}
	return dst, a.walk > 0
}

// Flushed ends the flush: the slot's lines have left, and none of its points is made
// again. It returns how many lines that were.
func (a *Aggregator) Flushed() (lines int) {
	lines = a.sealed.Lines
	a.sealed, a.flushing = Slot{}, false
	a.journal.commit()
	return lines
}

// flushEntry appends the points of one name, and drops what has expired.
func (a *Aggregator) flushEntry(dst []byte, e *entry) []byte {
	seq, seconds := a.open.Seq, float64(a.sealed.Interval)
	if c := e.counter; c != nil && c.born < seq {
		c.turn(seq)
		rate := c.old / seconds
		switch a.cfg.Layout {
		case Plain:
			dst = a.point(dst, "", e.name, "count", c.old)
			dst = a.point(dst, "", e.name, "rate", rate)
		case StatsD:
			dst = a.point(dst, "stats.counters.", e.name, "rate", rate)
			dst = a.point(dst, "stats.counters.", e.name, "count", c.old)
		case Legacy:
			dst = a.point(dst, "stats.", e.name, "", rate)
			dst = a.point(dst, "stats_counts.", e.name, "", c.old)
		}
		c.old = 0
		if a.isExpired(&c.part, counterCost) {
			e.counter = nil
		}
	}
	if t := e.timer; t != nil && t.born < seq {
		t.turn(seq)
		a.values = a.statsOf(a.values[:0], &t.old, seconds)
		for _, s := range a.values {
			dst = a.point(dst, timers[a.cfg.Layout], e.name, s.name, s.value)
		}
		a.clear(&t.old)
		if a.isExpired(&t.part, timerCost) {
			e.timer = nil
		}
	}
	if g := e.gauge; g != nil && g.born < seq {
		g.turn(seq)
		dst = a.point(dst, gauges[a.cfg.Layout], e.name, "", g.old)
		if a.isExpired(&g.part, gaugeCost) {
			e.gauge = nil
		}
	}
	if s := e.set; s != nil && s.born < seq {
		s.turn(seq)
		dst = a.point(dst, sets[a.cfg.Layout], e.name, "count", float64(len(s.old)))
		for m := range s.old {
			a.series.give(int64(memberCost + len(m)))
		}
		s.old = nil
		if a.isExpired(&s.part, setCost) {
			e.set = nil
		}
	}
	return dst
}

// What stands before the name, by layout.
var (
	timers = [...]string{Plain: "", StatsD: "stats.timers.", Legacy: "stats.timers."}
	gauges = [...]string{Plain: "", StatsD: "stats.gauges.", Legacy: "stats.gauges."}
	sets   = [...]string{Plain: "", StatsD: "stats.sets.", Legacy: "stats.sets."}
)

// isExpired says whether a series is to be forgotten, and gives its memory back.
func (a *Aggregator) isExpired(p *part, cost int64) bool {
	expire := int64(a.cfg.Expire / time.Second)
	if expire == 0 || a.sealed.Start-p.touched < expire {
		return false
	}
	a.series.give(cost)
	a.stats.Series--
	return true
}

// point appends a point of a series: its tags stand behind the whole name. A value that
// is no number is left out.
func (a *Aggregator) point(dst []byte, head, name, tail string, v float64) []byte {
	if math.IsNaN(v) {
		return dst
	}
	dst = append(append(dst, head...), mark)
	path, tags := name, ""
	for i := range len(name) {
		if name[i] == ';' {
			path, tags = name[:i], name[i:]
			break
		}
	}
	if path != "" {
		dst = append(append(dst, '.'), path...)
	}
	if tail != "" {
		dst = append(append(dst, '.'), tail...)
	}
	dst = append(append(dst, tags...), ' ')
	dst = appendNumber(dst, v)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, a.sealed.Start, 10)
	return append(dst, '\n')
}
