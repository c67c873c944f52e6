package aggregate

import (
	"cmp"
	"math"
	"strconv"
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// A flush makes points of a slot that has ended.
type flush struct {
	percentiles []percentile

	sealed Slot   // of no Seq where there is none
	own    string // what stands for the host in its points, with the mark
	left   int    // how many of order are still to be taken

	taken  []taken // last
	values []stat
}

func (f *flush) configure(cfg Config) {
	f.percentiles = nil
	for _, p := range cfg.Percentiles {
		f.percentiles = append(f.percentiles, newPercentile(p))
	}
}

func (f *flush) seal(slot Slot, series int) {
	f.sealed, f.left = slot, series
	f.own = strings.ReplaceAll(cmp.Or(slot.To, "{name}"), "{name}", line.Mark)
}

// IsFlushing says whether the sealed slot still has points to take out.
func (f *flush) IsFlushing() bool { return f.sealed.Seq != 0 }

// release frees what was taken.
func (f *flush) release() {
	clear(f.taken)
	f.taken = f.taken[:0]
}

// A taken series is what its points are made from.
type taken struct {
	name    string
	kind    kind
	value   float64 // of a counter or gauge; how many members a set has
	samples samples
}

// Points appends the points of what was taken last, as lines with the mark in place of the
// host's name. Lines may be added meanwhile.
func (f *flush) Points(dst []byte) []byte {
	seconds, heads := float64(f.sealed.Interval), heads[f.sealed.Layout]
	for i := range f.taken {
		t := &f.taken[i]
		head := heads[t.kind]
		switch {
		case t.kind == timerKind:
			f.values = t.samples.stats(f.values[:0], f.percentiles, seconds)
			for _, s := range f.values {
				dst = f.point(dst, head, t.name, s.name, s.value)
			}
		case t.kind == gaugeKind:
			dst = f.point(dst, head, t.name, "", t.value)
		case t.kind == setKind:
			dst = f.point(dst, head, t.name, ".count", t.value)
		case f.sealed.Layout == Legacy:
			dst = f.point(dst, head, t.name, "", t.value/seconds)
			dst = f.point(dst, "stats_counts.", t.name, "", t.value)
		default:
			dst = f.point(dst, head, t.name, ".count", t.value)
			dst = f.point(dst, head, t.name, ".rate", t.value/seconds)
		}
	}
	return dst
}

// What comes before the name.
var (
	statsdHeads = [...]string{counterKind: "stats.counters.", gaugeKind: "stats.gauges.", timerKind: "stats.timers.", setKind: "stats.sets."}
	legacyHeads = [...]string{counterKind: "stats.", gaugeKind: "stats.gauges.", timerKind: "stats.timers.", setKind: "stats.sets."}
	heads       = map[Layout][setKind + 1]string{StatsD: statsdHeads, Legacy: legacyHeads}
)

// point appends one point of a series, with its tags after the whole name. It leaves out a
// value that is not a number.
func (f *flush) point(dst []byte, head, name, tail string, v float64) []byte {
	if math.IsNaN(v) {
		return dst
	}
	path, tags := name, ""
	if i := strings.IndexByte(name, ';'); i >= 0 {
		path, tags = name[:i], name[i:]
	}
	dst = append(append(dst, head...), f.own...)
	if path != "" {
		dst = append(append(dst, '.'), path...)
	}
	dst = append(append(append(dst, tail...), tags...), ' ')
	dst = appendNumber(dst, v)
	dst = append(dst, ' ')
	dst = strconv.AppendInt(dst, f.sealed.Start, 10)
	return append(dst, '\n')
}
