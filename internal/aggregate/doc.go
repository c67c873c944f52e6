// Package aggregate turns StatsD's values into Graphite's points, as statsd 0.9 does:
//
//	a, err := aggregate.Open(cfg, dirs, now)        // goes on where the last process ended
//	if a.IsOver(now) { a.Seal(now) }
//	r.Line(line, tags); …; a.Add(&r)                // what a read brought: r is a Reading
//	a.Take(n); dst = a.Points(dst); …; a.Flushed()  // the points of the slot that has ended
//	a.Close(disk)                                   // behind the last flush
//
// Lines come as line.Rules with Points writes them: checked, and with line.Mark in place of
// the host's name; or what line.Rewriter.CutOwn makes of them. Points leave without a name, too: "stats.counters.\x01.api.count 5
// 1700000000". Whoever names them replaces the mark.
//
// In reading order: parse.go (a line's metrics), read.go (a reader's lines), name.go (what
// Graphite stores as one series), series.go, table.go and timer.go (what is kept of each, and its
// bounds), slot.go (which is open), flush.go (its points), state.go and journal.go (what
// survives), and aggregate.go, which has them all.
//
// # Slots
//
// Time is cut at whole multiples of the interval. The open slot takes what arrives. When it
// is over, it is sealed, and its series are taken out, in parts, while the next one is already
// open. Each slot is sealed only once, whatever the clock does: closed remembers which were.
//
// # Not promised
//
// An Aggregator has one owner: the caller locks. Only Points needs no lock. Two types under
// one name may make points of one name (the plain layout writes x.count for a counter and for
// a timer x). What survives the process in memory is lost with the machine.
package aggregate
