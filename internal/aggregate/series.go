package aggregate

import "bytes"

// A series is what is kept of one name and kind. What came in the slot of seq, the last
// in which anything came, is cur. Where that is the open one, old is that of the slot
// before, until its points have left.
type series struct {
	name     string
	kind     kind
	ahead    bool // of the lines that are counted once more: see state.go
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

// sums are the series, and what bounds them.
type sums struct {
	table table
	order []*series // the same
	names canonicalizer

	memory, samples, sketches room
	sketched                  uint64

	ahead   [lookahead]pending
	fetched uint64
}

func newSums() sums { return sums{table: newTable()} }

func (x *sums) configure(cfg Config) {
	memory := int64(cfg.Memory)
	x.memory.limit, x.samples.limit, x.sketches.limit = memory/2, memory/4, memory/8
	x.names.dropTags = cfg.Tags == DropTags
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

// A pending line is one whose series is being fetched from memory.
type pending struct {
	line, name, metrics []byte // name: nil where it is not as Graphite stores it
	hash                uint64
	s                   *series // that may be its
}

// lookahead is how many lines wait for memory at once.
const lookahead = 32

// add counts lines, each with its end, in the slot of seq. It returns how many were
// counted.
func (x *sums) add(lines []byte, seq int64) (counted int) {
	for len(lines) > 0 {
		n := 0
		for ; n < lookahead && len(lines) > 0; n++ {
			var line []byte
			line, lines, _ = bytes.Cut(lines, newline)
			x.ahead[n] = x.read(line)
		}
		x.fetch(x.ahead[:n])
		for i := range x.ahead[:n] {
			if x.addLine(&x.ahead[i], seq) {
				counted++
			}
		}
	}
	return counted
}

// read cuts a line.
func (x *sums) read(line []byte) pending {
	path, metrics, _ := bytes.Cut(line, colon)
	p := pending{line: line, metrics: metrics}
	if name := ownPath(path); isCanonical(name) {
		p.name, p.hash = name, x.table.hash(name)
	}
	return p
}

// fetch has the processor fetch what addLine will look at, for all lines at once: no step
// of a line waits for the one of another.
func (x *sums) fetch(lines []pending) {
	for i := range lines {
		lines[i].s = x.table.slots[x.table.at(lines[i].hash)].s
	}
	for i := range lines {
		if s := lines[i].s; s != nil && s.name != "" {
			x.fetched += uint64(s.name[0]) + uint64(s.seq) // is asked for, so that it is read
		}
	}
}

// addLine counts one line: it is counted if one of its metrics is.
func (x *sums) addLine(p *pending, seq int64) (counted bool) {
	name, hash := p.name, p.hash
	if tags := tagsOf(p.metrics); name == nil || len(tags) > 0 {
		path, _, _ := bytes.Cut(p.line, colon)
		name = x.names.of(ownPath(path), tags)
		hash = x.table.hash(name)
	}
	w := walk{rest: p.metrics}
	for text, ok := w.next(); ok; text, ok = w.next() {
		if v, why := w.m.read(text); why == Counted {
			counted = x.addValue(name, hash, &w.m, text, v, seq) || counted
		}
	}
	return counted
}

// addValue counts one value, if there is room.
func (x *sums) addValue(name []byte, hash uint64, m *metric, text []byte, v float64, seq int64) bool {
	s := x.table.find(name, m.kind, hash)
	if s == nil {
		if s = x.newSeries(name, m.kind, hash, seq); s == nil {
			return false
		}
	}
	if s.ahead {
		return true
	}
	s.touch(seq)
	switch m.kind {
	case counterKind:
		s.cur += float64(v * m.weight) // rounded, on every machine
	case gaugeKind:
		if text[0] == '+' || text[0] == '-' {
			v += s.cur // to statsd, what is not there is 0
		}
		s.cur = v
	case timerKind:
		return x.sample(&s.timer.cur, v, m.weight)
	case setKind:
		return x.member(s.set, text)
	}
	return true
}

// newSeries returns a series that is put into the table, nil where there is no room.
func (x *sums) newSeries(name []byte, k kind, hash uint64, seq int64) *series {
	if !x.memory.take(costOf(len(name), k)) {
		return nil
	}
	s := &series{name: string(name), kind: k, seq: seq}
	switch k {
	case timerKind:
		s.timer = &timer{}
	case setKind:
		s.set = &set{}
	}
	x.table.put(s, hash)
	x.order = append(x.order, s)
	return s
}

// forget takes out the series that is the i-th. The last takes its place.
func (x *sums) forget(i int) {
	s, last := x.order[i], len(x.order)-1
	x.memory.give(costOf(len(s.name), s.kind))
	x.table.remove(s, x.table.hash([]byte(s.name)))
	x.order[i], x.order[last] = x.order[last], nil
	x.order = x.order[:last]
}

func costOf(name int, k kind) int64 {
	if k == timerKind {
		return int64(seriesCost + name + timerCost)
	}
	return int64(seriesCost + name)
}

// member counts a member of a set, if there is room.
func (x *sums) member(s *set, text []byte) bool {
	if len(text) == 0 {
		text = zero // as statsd
	}
	if _, is := s.cur[string(text)]; is || string(text) == "__proto__" { // which no JavaScript object has for its own
		return true
	}
	if !x.memory.take(int64(memberCost + len(text))) {
		return false
	}
	if s.cur == nil {
		s.cur = map[string]struct{}{}
	}
	s.cur[string(text)] = struct{}{}
	return true
}

// take takes what a series has in the slot before that of seq, which is open.
func (x *sums) take(s *series, seq int64) taken {
	if s.seq != seq {
		s.shift()
	}
	t := taken{name: s.name, kind: s.kind, value: s.old}
	switch s.kind {
	case counterKind:
		s.old = 0
	case timerKind:
		t.samples, t.timer = s.timer.old, s.timer
		s.timer.old = samples{}
		x.samples.give(t.samples.reserved)
		x.sketches.give(t.samples.sketched)
	case setKind:
		t.value = float64(len(s.set.old))
		for m := range s.set.old {
			x.memory.give(int64(memberCost + len(m)))
		}
		s.set.old = nil
	}
	return t
}
