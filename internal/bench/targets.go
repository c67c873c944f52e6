//go:build linux

package main

import "fmt"

// A Target is a figure that we want to reach, and what it was.
type Target struct {
	What    string
	Figure  float64
	Limit   float64
	AtLeast bool // the figure is to be at least the limit; else at most
	Unit    string
}

// Met says whether the figure is as it should be.
func (t Target) Met() bool {
	if t.AtLeast {
		return t.Figure >= t.Limit
	}
	return t.Figure <= t.Limit
}

func (t Target) limit() string {
	if t.AtLeast {
		return fmt.Sprintf("≥ %.3g%s", t.Limit, t.Unit)
	}
	return fmt.Sprintf("≤ %.3g%s", t.Limit, t.Unit)
}

func (t Target) figure() string { return fmt.Sprintf("%.3g%s", t.Figure, t.Unit) }

func (t Target) verdict() string {
	if t.Met() {
		return "met"
	}
	return "not met"
}

// targets judges all that was measured: the daemon against the least
// forwarder, and the least forwarder against what it must beat to be a
// yardstick.
func (r *Report) targets() []Target {
	var t targetList
	t.ratio(r.row("statsd-single"), theLeast, thePlain, "yardstick: CPU × plain loop", Result.PerMillion, 0.12, false)
	t.ratio(r.row("carbon-flat-1"), theLeast, theRelay, "yardstick: lines per CPU second × carbon-c-relay", linesPerCPU, 40, true)

	t.ratio(r.row("statsd-single"), theDaemon, theLeast, "CPU × least", Result.PerMillion, 1, false)
	t.ratio(r.row("statsd-packed"), theDaemon, theLeast, "CPU × least", Result.PerMillion, 1.2, false)
	t.ratio(r.row("statsd-flood"), theDaemon, theLeast, "lines × least", Result.Rate, 0.8, true)
	t.uncounted(r.row("statsd-flood"))
	for _, name := range []string{"carbon-flat-1", "carbon-flat-8"} {
		t.ratio(r.row(name), theDaemon, theLeast, "lines × least", Result.Rate, 0.75, true)
		t.ratio(r.row(name), theDaemon, theLeast, "CPU × least", Result.PerMillion, 2, false)
		t.uncounted(r.row(name))
	}
	t.ratio(r.row("carbon-flat-1"), theDaemon, theUnkept, "CPU × with the queue in no file", Result.PerMillion, 1.5, false)
	t.ratio(r.row("carbon-small-1"), theDaemon, theUnkept, "CPU × with the queue in no file", Result.PerMillion, 1.15, false)
	t.ratio(r.row("carbon-small-1"), theDaemon, theLeast, "CPU × least", Result.PerMillion, 0.7, false)
	t.milliseconds(r.row("carbon-small-1"), "p99", p99, 10)
	t.ratio(r.row("carbon-small-8"), theDaemon, theLeast, "CPU × least", Result.PerMillion, 1.3, false)
	t.milliseconds(r.row("carbon-small-8"), "p99", p99, 10)
	t.milliseconds(r.row("latency"), "p99", p99, 10)
	t.milliseconds(r.row("latency-0"), "p50", p50, 0.15)
	t.milliseconds(r.row("carbon-latency-0"), "p50", p50, 0.15)
	for _, w := range works {
		t.ratio(r.row(w.name), theDaemon, theOther, "CPU × the other version", Result.PerMillion, 1.05, false)
	}
	for _, w := range countingWorks {
		t.counting(r.row(w.name))
	}
	t.standing(r)
	return t
}

func linesPerCPU(r Result) float64 { return 1 / r.PerMillion() }
func p50(r Result) float64         { return float64(r.P50.Microseconds()) / 1000 }
func p99(r Result) float64         { return float64(r.P99.Microseconds()) / 1000 }

type targetList []Target

func (t *targetList) atMost(what string, figure, limit float64, unit string) {
	*t = append(*t, Target{What: what, Figure: figure, Limit: limit, Unit: unit})
}

func (t *targetList) atLeast(what string, figure, limit float64, unit string) {
	*t = append(*t, Target{What: what, Figure: figure, Limit: limit, Unit: unit, AtLeast: true})
}

// ratio compares two contenders of a row; nothing, where one of them took no
// part or delivered nothing.
func (t *targetList) ratio(row *Row, a, b *contender, what string, figure func(Result) float64, limit float64, atLeast bool) {
	if row == nil || row.column(a) == nil || row.column(b) == nil {
		return
	}
	if ratio, ok := row.column(a).ratio(row.column(b), figure); ok {
		*t = append(*t, Target{What: row.Name + ": " + what, Figure: ratio, Limit: limit, AtLeast: atLeast, Unit: " ×"})
	}
}

// milliseconds judges a latency of the daemon.
func (t *targetList) milliseconds(row *Row, what string, figure func(Result) float64, limit float64) {
	if row != nil {
		t.atMost(row.Name+": "+what, row.column(theDaemon).median(figure), limit, " ms")
	}
}

// uncounted judges whether the daemon's books know of every line that it lost.
func (t *targetList) uncounted(row *Row) {
	if row != nil {
		lost := row.column(theDaemon).sum(func(r Result) int64 { return r.Lost - int64(r.Counted) })
		t.atMost(row.Name+": lines lost and not counted", float64(lost), 0, "")
	}
}

// counting judges what it costs to count, beside forwarding and beside others that do.
func (t *targetList) counting(row *Row) {
	if row == nil {
		return
	}
	cost := row.column(theCounter).median(Result.PerMillion)
	t.atMost(row.Name+": CPU s/M lines more than forwarding", cost-row.column(theDaemon).median(Result.PerMillion), 0.1, "")
	for _, c := range []*contender{theStatsD, theGoStatsD, theStatsite, theBrubeck} {
		if column := row.column(c); column != nil {
			t.atLeast(row.Name+": lines a CPU second, × "+c.name, column.median(Result.PerMillion)/cost, 1, " ×")
		}
	}
}

// standing judges the rows that are no work.
func (t *targetList) standing(r *Report) {
	const mib = 1 << 20
	if i := r.Idle; i != nil {
		t.atMost("idle: CPU of a core", 100*i.Load, 0.2, " %")
		t.atMost("idle: wake-ups a second", i.WakeRate, 10, "")
		t.atMost("idle: resident", float64(i.Resident)/mib, 30, " MiB")
	}
	if m := r.Memory; m != nil {
		peak := m.PeakResident
		for _, row := range r.Rows {
			peak = max(peak, row.column(theDaemon).PeakResident)
		}
		t.atMost("memory: resident at most, in any row", float64(peak)/mib, float64(m.Bound)/mib, " MiB")
	}
	if p := r.Pure; p != nil {
		t.atLeast("pure: cut, check, rewrite StatsD", p.StatsD/1e9, 1.5, " GB/s")
		t.atLeast("pure: cut, check, rewrite Carbon", p.Carbon/1e9, 0.8, " GB/s")
		t.atMost("pure: allocations", float64(p.Allocs), 0, "")
	}
}
