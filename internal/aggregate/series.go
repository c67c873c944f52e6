package aggregate

import "bytes"

// A Reason says what became of a line.
type Reason uint8

// Counted, or why not. A line of several metrics is counted if one of them is.
const (
	Counted    Reason = iota
	NoPoint           // it makes no point: an event, a service check, a type that is none
	BadValue          // no finite number, or a field behind it that statsd refuses
	BadPath           // no file can have the name
	SeriesFull        // no memory for another series, or for what it holds
	NumReasons
)

// String returns the reason as people see it; "" if the line was counted.
func (r Reason) String() string {
	return [NumReasons]string{NoPoint: "no_point", BadValue: "bad_value", BadPath: "bad_path", SeriesFull: "series_full"}[r]
}

// An entry is all that is kept under one name: a part for each type that came.
type entry struct {
	name    string
	counter *counter
	gauge   *gauge
	timer   *timer
	set     *set
}

// A part is one series. What came in the open slot is cur; old is that of the slot
// before, until its points have left. The first touch in a slot, or the flush of the
// one before, turns it.
type part struct {
	seq     int64 // of the slot of cur
	born    int64 // the slot in which it came first
	touched int64 // start of the slot in which it came last, Unix seconds
}

// turns says whether cur is of the slot before the open one, and makes it of this.
func (p *part) turns(seq int64) bool {
	if p.seq == seq {
		return false
	}
	p.seq = seq
	return true
}

type counter struct {
	part
	cur, old float64
}

func (c *counter) turn(seq int64) {
	if c.turns(seq) {
		c.old, c.cur = c.cur, 0
	}
}

type gauge struct {
	part
	cur, old float64
}

func (g *gauge) turn(seq int64) {
	if g.turns(seq) {
		g.old = g.cur
	}
}

type set struct {
	part
	cur, old map[string]struct{}
}

func (s *set) turn(seq int64) {
	if s.turns(seq) {
		s.old, s.cur = s.cur, map[string]struct{}{}
	}
}

// What things take in memory, with what Go's maps, heap and collector take beside.
const (
	entryCost   = 200
	counterCost = 64
	gaugeCost   = 64
	setCost     = 192
	memberCost  = 96
	timerCost   = 256 + 2*8*smallTimer
	sketchCost  = 6 << 10
)

// Add counts a line, without its end, in the open slot.
func (a *Aggregator) Add(line []byte) Reason {
	colon := bytes.IndexByte(line, ':')
	if len(line) < 2 || line[0] != mark || colon < 0 {
		return NoPoint
	}
	raw, metrics := bytes.TrimPrefix(line[1:colon], dot), line[colon+1:]
	var tags []byte
	if i := bytes.Index(metrics, tagStart); i >= 0 {
		tags, _, _ = bytes.Cut(metrics[i+2:], bar)
	}
	name, ok := a.canonical(raw, tags)
	if !ok {
		return BadPath
	}
	e := a.entries[string(name)]
	result := NoPoint
	for len(metrics) > 0 {
		var m metric
		m, metrics = nextMetric(metrics)
		for more := true; more; {
			var value []byte
			var why Reason
			value, m.values, more = bytes.Cut(m.values, colonByte)
			if e, why = a.addValue(e, name, &m, value); why == Counted || result == NoPoint {
				result = why
			}
		}
	}
	if result == Counted {
		a.open.Lines++
	}
	return result
}

var (
	dot       = []byte(".")
	bar       = []byte("|")
	colonByte = []byte(":")
	tagStart  = []byte("|#")
)

// addValue counts one value; e is the entry of name, if there is one.
func (a *Aggregator) addValue(e *entry, name []byte, m *metric, text []byte) (*entry, Reason) {
	if m.kind == noKind {
		return e, NoPoint
	}
	v, ok := 0.0, true
	if m.kind != setKind {
		v, ok = number(text)
	}
	if !ok || !m.sound || v < 0 && string(m.typ) == "ms" || m.kind == counterKind && !isFinite(v*m.weight) || !isFinite(m.weight) {
		return e, BadValue
	}
	if e == nil {
		if e = a.newEntry(name); e == nil {
			return nil, SeriesFull
		}
	}
	switch m.kind {
	case counterKind:
		return e, a.count(e, float64(v*m.weight)) // rounded, on every machine
	case gaugeKind:
		return e, a.gauge(e, v, text[0] == '+' || text[0] == '-')
	case timerKind:
		return e, a.time(e, v, m.weight)
	}
	return e, a.member(e, text)
}

func isFinite(v float64) bool { return v-v == 0 }

// newEntry returns an entry for name, nil where there is no room.
func (a *Aggregator) newEntry(name []byte) *entry {
	if !a.series.take(int64(entryCost + len(name))) {
		return nil
	}
	e := &entry{name: string(name)}
	a.entries[e.name] = e
	a.order = append(a.order, e)
	return e
}

// newPart returns the part of a new series, if there is room for cost bytes.
func (a *Aggregator) newPart(cost int64) (part, bool) {
	if !a.series.take(cost) {
		return part{}, false
	}
	a.stats.Series++
	return part{seq: a.open.Seq, born: a.open.Seq}, true
}

func (a *Aggregator) count(e *entry, v float64) Reason {
	if e.counter == nil {
		p, ok := a.newPart(counterCost)
		if !ok {
			return SeriesFull
		}
		e.counter = &counter{part: p}
	}
	c := e.counter
	c.turn(a.open.Seq)
	c.touched = a.open.Start
	c.cur += v
	return Counted
}

func (a *Aggregator) gauge(e *entry, v float64, signed bool) Reason {
	if e.gauge == nil {
		p, ok := a.newPart(gaugeCost)
		if !ok {
			return SeriesFull
		}
		e.gauge = &gauge{part: p}
	}
	g := e.gauge
	g.turn(a.open.Seq)
	g.touched = a.open.Start
	if signed {
		v += g.cur // to statsd, what is not there is 0
	}
	g.cur = v
	return Counted
}

// member counts a member of a set.
func (a *Aggregator) member(e *entry, text []byte) Reason {
	if e.set == nil {
		p, ok := a.newPart(setCost)
		if !ok {
			return SeriesFull
		}
		e.set = &set{part: p, cur: map[string]struct{}{}}
	}
	s := e.set
	s.turn(a.open.Seq)
	s.touched = a.open.Start
	if len(text) == 0 {
		text = zero
	}
	if _, is := s.cur[string(text)]; is || string(text) == "__proto__" { // which no JavaScript object has for its own
		return Counted
	}
	if !a.series.take(int64(memberCost + len(text))) {
		return SeriesFull
	}
	s.cur[string(text)] = struct{}{}
	return Counted
}

var zero = []byte("0")

// isEmpty says whether no part is left.
func (e *entry) isEmpty() bool {
	return e.counter == nil && e.gauge == nil && e.timer == nil && e.set == nil
}

// A room is memory that is bounded.
type room struct{ used, limit int64 }

func (r *room) take(n int64) bool {
	if r.used+n > r.limit {
		return false
	}
	r.used += n
	return true
}

func (r *room) give(n int64) { r.used -= n }
