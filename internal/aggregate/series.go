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

// A series is what is kept of one name and kind. What came in the slot of seq, the last
// in which anything came, is cur. Where that is the open one, old is that of the slot
// before, until its points have left.
type series struct {
	name     string
	kind     kind
	seq      int64
	cur, old float64 // a counter's sum, a gauge's value
	timer    *timer  // of a timer
	set      *set    // of a set
}

// A set is the members that came.
type set struct{ cur, old map[string]struct{} }

// touch makes cur that of the open slot, in which something comes.
func (s *series) touch(seq int64) {
	if s.seq != seq {
		s.shift()
		s.seq = seq
	}
}

// shift ends cur.
func (s *series) shift() {
	switch s.kind {
	case counterKind:
		s.old, s.cur = s.cur, 0
	case gaugeKind:
		s.old = s.cur
	case timerKind:
		s.timer.shift()
	case setKind:
		s.set.old, s.set.cur = s.set.cur, nil
	}
}

// What things take in memory, with what the table, the heap and the collector take beside.
const (
	seriesCost = 200
	timerCost  = 128 + 2*8*smallTimer
	memberCost = 96
	sketchCost = 6 << 10
)

// A pending line is one whose series is being fetched from memory.
type pending struct {
	line, name, metrics []byte // name: nil where it is not as Graphite stores it
	hash                uint64
	s                   *series // that may be its
}

// lookahead is how many lines wait for memory at once.
const lookahead = 32

// Add counts lines, each with its end, in the open slot. It returns how many were
// counted, and calls refused for the others.
func (a *Aggregator) Add(lines []byte, refused func(line []byte, why Reason)) (counted int) {
	for len(lines) > 0 {
		n := 0
		for ; n < lookahead && len(lines) > 0; n++ {
			var line []byte
			line, lines, _ = bytes.Cut(lines, newline)
			a.ahead[n] = a.read(line)
		}
		a.fetch(a.ahead[:n])
		for i := range a.ahead[:n] {
			if why := a.add(&a.ahead[i]); why == Counted {
				counted++
			} else {
				refused(a.ahead[i].line, why)
			}
		}
	}
	a.open.Lines += counted
	return counted
}

// read cuts a line.
func (a *Aggregator) read(line []byte) pending {
	colon := bytes.IndexByte(line, ':')
	if len(line) < 2 || line[0] != mark || colon < 0 {
		return pending{line: line}
	}
	p := pending{line: line, metrics: line[colon+1:]}
	if name := bytes.TrimPrefix(line[1:colon], dot); isCanonical(name) {
		p.name, p.hash = name, a.table.hash(name)
	}
	return p
}

// fetch has the processor fetch what add will look at, for all lines at once: no step of
// a line waits for the one of another.
func (a *Aggregator) fetch(lines []pending) {
	for i := range lines {
		lines[i].s = a.table.slots[a.table.at(lines[i].hash)].s
	}
	for i := range lines {
		if s := lines[i].s; s != nil && s.name != "" {
			a.fetched += uint64(s.name[0]) + uint64(s.seq) // is asked for, so that it is read
		}
	}
}

// add counts one line.
func (a *Aggregator) add(p *pending) Reason {
	if p.metrics == nil {
		return NoPoint
	}
	name, hash := p.name, p.hash
	var tags []byte
	if i := bytes.Index(p.metrics, tagStart); i >= 0 {
		tags, _, _ = bytes.Cut(p.metrics[i+2:], bar)
	}
	if name == nil || len(tags) > 0 {
		raw := p.line[1 : len(p.line)-len(p.metrics)-1]
		if name = a.names.of(bytes.TrimPrefix(raw, dot), tags); !isStorable(name) {
			return BadPath
		}
		hash = a.table.hash(name)
	}
	result := NoPoint
	w := walk{rest: p.metrics}
	for text, ok := w.next(); ok; text, ok = w.next() {
		if why := a.addValue(name, hash, &w.m, text); why == Counted || result == NoPoint {
			result = why
		}
	}
	return result
}

var (
	dot       = []byte(".")
	bar       = []byte("|")
	colonByte = []byte(":")
	semicolon = []byte(";")
	comma     = []byte(",")
	tagStart  = []byte("|#")
	newline   = []byte("\n")
)

// addValue counts one value.
func (a *Aggregator) addValue(name []byte, hash uint64, m *metric, text []byte) Reason {
	v, why := m.read(text)
	if why != Counted {
		return why
	}
	s := a.table.find(name, m.kind, hash)
	if s == nil {
		if s = a.newSeries(name, m.kind, hash); s == nil {
			return SeriesFull
		}
	}
	s.touch(a.open.Seq)
	switch m.kind {
	case counterKind:
		s.cur += float64(v * m.weight) // rounded, on every machine
	case gaugeKind:
		if text[0] == '+' || text[0] == '-' {
			v += s.cur // to statsd, what is not there is 0
		}
		s.cur = v
	case timerKind:
		return a.sample(&s.timer.cur, v, m.weight)
	case setKind:
		return a.member(s.set, text)
	}
	return Counted
}

// newSeries returns a series that is put into the table, nil where there is no room.
func (a *Aggregator) newSeries(name []byte, k kind, hash uint64) *series {
	if !a.series.take(costOf(len(name), k)) {
		return nil
	}
	s := &series{name: string(name), kind: k, seq: a.open.Seq}
	switch k {
	case timerKind:
		s.timer = &timer{}
	case setKind:
		s.set = &set{}
	}
	a.table.put(s, hash)
	a.order = append(a.order, s)
	return s
}

func costOf(name int, k kind) int64 {
	if k == timerKind {
		return int64(seriesCost + name + timerCost)
	}
	return int64(seriesCost + name)
}

// member counts a member of a set.
func (a *Aggregator) member(s *set, text []byte) Reason {
	if len(text) == 0 {
		text = zero
	}
	if _, is := s.cur[string(text)]; is || string(text) == "__proto__" { // which no JavaScript object has for its own
		return Counted
	}
	if !a.series.take(int64(memberCost + len(text))) {
		return SeriesFull
	}
	if s.cur == nil {
		s.cur = map[string]struct{}{}
	}
	s.cur[string(text)] = struct{}{}
	return Counted
}

var zero = []byte("0")

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
