package aggregate

import (
	"slices"
	"time"
)

// An Aggregator sums StatsD's lines up, slot by slot. It has one owner.
type Aggregator struct {
	cfg         Config
	percentiles []percentile

	open   Slot
	named  bool // the host holds a name
	closed []Span

	sealed       Slot
	sealedSeries int
	flushing     bool
	walk         int // of order: the series before it are still to be taken

	table table
	order []*series // the same

	series, samples, sketches room
	sketched                  uint64
	journal                   journal

	// Buffers.
	names   canonicalizer
	ahead   [lookahead]pending
	fetched uint64
	taken   []taken
	values  []stat
}

// A Slot is the time that a point stands for.
type Slot struct {
	Seq      int64  // counts slots
	Start    int64  // Unix seconds: the timestamp of its points
	Interval int64  // seconds
	Tenure   string // what the name was held under when it began; "": none was
	Lines    int    // that were counted
}

func (s Slot) end() int64 { return s.Start + s.Interval }

// A Span is a time that no further slot may have: from its start, up to its end.
type Span struct{ From, To int64 }

// maxClosed is how many spans are remembered: there is one, and one more each time that
// the clock is set forward.
const maxClosed = 16

// Stats are numbers for people.
type Stats struct {
	Series   int    // that are remembered
	Bytes    int64  // that they take
	Sketched uint64 // timers that went on in a sketch, a slot each
}

// newAggregator returns one that has nothing, and no slot.
func newAggregator(cfg Config) *Aggregator {
	a := &Aggregator{table: newTable()}
	a.configure(cfg)
	return a
}

func (a *Aggregator) configure(cfg Config) {
	a.cfg = cfg
	a.names.dropTags = cfg.Tags == DropTags
	memory := int64(cfg.Memory)
	a.series.limit, a.samples.limit, a.sketches.limit = memory/2, memory/4, memory/8
	a.percentiles = nil
	for _, p := range cfg.Percentiles {
		a.percentiles = append(a.percentiles, newPercentile(p))
	}
}

// Reconfigure makes cfg hold. What has been counted in the open slot goes on in that of
// now. Nothing is being flushed.
func (a *Aggregator) Reconfigure(cfg Config, now time.Time) {
	a.configure(cfg)
	a.open.Start, a.open.Interval = a.next(now.Unix()), int64(cfg.Interval/time.Second)
	a.journal.note(a.header())
}

// Stats returns some numbers.
func (a *Aggregator) Stats() Stats {
	return Stats{len(a.order), a.series.used + a.samples.used + a.sketches.used, a.sketched}
}

// Lines returns how many lines are counted in slots that have not left.
func (a *Aggregator) Lines() int { return a.open.Lines + a.sealed.Lines }

// next returns the start of the first slot that is not over at now, and may be used.
func (a *Aggregator) next(now int64) int64 {
	interval := int64(a.cfg.Interval / time.Second)
	start := now - ((now%interval)+interval)%interval
	for again := true; again; {
		again = false
		for _, c := range a.closed {
			if c.From <= start && start < c.To {
				start = (c.To + interval - 1) / interval * interval
				again = true
			}
		}
	}
	return start
}

// close keeps a time from being used again.
func (a *Aggregator) close(from, to int64) {
	for i := range a.closed {
		if c := &a.closed[i]; c.From <= from && from <= c.To {
			c.To = max(c.To, to)
			return
		}
	}
	a.closed = append(a.closed, Span{from, to})
	if len(a.closed) > maxClosed {
		a.closed = slices.Delete(a.closed, 0, 1)
	}
}

// IsOver says whether the open slot has ended at now. Without a name it waits a little
// longer, for one that comes: see Hold.
func (a *Aggregator) IsOver(now time.Time) bool {
	next := a.next(now.Unix())
	if next > a.open.Start && !a.named {
		return now.Unix() >= a.open.end()+a.open.Interval/3
	}
	return next != a.open.Start
}

// Ends returns when IsOver, if nobody sets the clock.
func (a *Aggregator) Ends() time.Time {
	end := time.Unix(a.open.end(), 0)
	if !a.named {
		end = end.Add(time.Duration(a.open.Interval/3) * time.Second)
	}
	return end
}

// Seal ends the open slot, whose points are to be flushed, and opens the one of now. The
// last flush must have ended.
func (a *Aggregator) Seal(now time.Time) {
	a.close(a.open.Start, a.open.end())
	a.seal()
	a.begin(a.open.Seq+1, now.Unix())
}

func (a *Aggregator) seal() {
	a.sealed, a.flushing = a.open, true
	a.walk, a.sealedSeries = len(a.order), len(a.order)
}

// begin opens another slot.
func (a *Aggregator) begin(seq, now int64) {
	tenure := a.open.Tenure
	if !a.named {
		tenure = ""
	}
	a.open = Slot{Seq: seq, Start: a.next(now), Interval: int64(a.cfg.Interval / time.Second), Tenure: tenure}
	a.journal.turn(a.header())
}

// Holds says whether a tenure is that of the open slot.
func (a *Aggregator) Holds(tenure string) bool { return a.open.Tenure == tenure }

// Hold says that the name is held under another tenure from now on. The points of the
// slot in which that begins are the former holder's, who may have written them: what
// comes in the rest of it is counted in the next. So is what came in it before, if it
// began under no tenure of ours; else that is sealed. The last flush must have ended.
func (a *Aggregator) Hold(now time.Time, tenure string) {
	a.named = true
	begun := a.open.Start <= now.Unix()
	interval := int64(a.cfg.Interval / time.Second)
	rest := (now.Unix()/interval + 1) * interval
	switch {
	case begun && a.open.Tenure != "":
		a.close(a.open.Start, max(a.open.end(), rest))
		a.Seal(now)
	case begun:
		a.close(a.open.Start, max(a.open.end(), rest))
		a.open.Start, a.open.Interval = a.next(now.Unix()), interval
	}
	a.open.Tenure = tenure
	a.journal.note(a.header())
}

// SetNamed says whether a name is held, be it suspended.
func (a *Aggregator) SetNamed(named bool) { a.named = named }
