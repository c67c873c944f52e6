package aggregate

import "bytes"

// A series is what is kept of one name and kind. cur is what arrived in the slot seq, the last
// one in which anything arrived. If that is the open slot, old is what arrived in the slot
// before, until its points have left.
//
// It is as large as a cache line.
type series struct {
	name     string
	kind     kind
	ahead    bool // of the lines that are counted once more: see state.go
	seq      int32
	cur, old float64 // a counter's sum, a gauge's value
	timer    *timer  // of a timer
	set      *set    // of a set
}

// A set is the members that arrived.
type set struct{ cur, old map[string]struct{} }

// touch makes cur that of the open slot, in which something comes.
func (s *series) touch(seq int32) {
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

// What things take in memory, including the table, the heap and the garbage collector.
const (
	seriesCost = 200
	timerCost  = 128 + 2*8*smallTimer
	memberCost = 96
	sketchCost = 6 << 10
)

// sums are the series, and their bounds.
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

// A room is bounded memory.
type room struct{ used, limit int64 }

func (r *room) take(n int64) bool {
	if r.used+n > r.limit {
		return false
	}
	r.used += n
	return true
}

func (r *room) give(n int64) { r.used -= n }

// A pending line is one whose series is on its way from memory to the processor.
type pending struct {
	path, metrics []byte // path: behind the mark
	hash          uint64 // of path
	value         float64
	kind          kind    // of the value, which is all that there is; else noKind
	s             *series // that may be its
}

// lookahead is how many lines wait for memory at the same time.
const lookahead = 32

// add counts lines, each with its newline, in the slot seq. It returns how many were
// counted.
func (x *sums) add(lines []byte, seq int32) (counted int) {
	for len(lines) > 0 {
		n := 0
		for ; n < lookahead && len(lines) > 0; n++ {
			lines = x.read(lines, &x.ahead[n])
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

// read cuts the first line off.
func (x *sums) read(lines []byte, p *pending) (rest []byte) {
	path, metrics := cut(lines, ':')
	p.path = ownPath(path)
	p.hash = x.table.hash(p.path)
	var n int
	if p.value, p.kind, n = plainMetric(metrics); n < len(metrics) && metrics[n] == '\n' && p.kind != noKind {
		return metrics[n+1:]
	}
	p.kind = noKind
	p.metrics, rest = cut(metrics, '\n')
	return rest
}

// fetch makes the processor fetch what addLine will look at, for all lines at once: no line
// waits for another's memory.
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
func (x *sums) addLine(p *pending, seq int32) (counted bool) {
	if p.kind != noKind {
		return x.addValue(p, p.kind, nil, p.value, 1, seq)
	}
	if tags := tagsOf(p.metrics); len(tags) > 0 {
		p.path = x.names.of(p.path, tags)
		p.hash = x.table.hash(p.path)
	}
	w := walk{rest: p.metrics}
	for text, ok := w.next(); ok; text, ok = w.next() {
		if v, why := w.m.read(text); why == Counted {
			counted = x.addValue(p, w.m.kind, text, v, w.m.weight, seq) || counted
		}
	}
	return counted
}

// addValue counts one value, if there is room.
func (x *sums) addValue(p *pending, k kind, text []byte, v, weight float64, seq int32) bool {
	s := x.seriesOf(p, k, seq)
	switch {
	case s == nil:
		return false
	case s.ahead:
		return true
	}
	s.touch(seq)
	switch k {
	case counterKind:
		s.cur += float64(v * weight) // rounded, on every machine
	case gaugeKind:
		if len(text) > 0 && (text[0] == '+' || text[0] == '-') {
			v += s.cur // to statsd, what is not there is 0
		}
		s.cur = v
	case timerKind:
		return x.sample(&s.timer.cur, v, weight)
	case setKind:
		return x.member(s.set, text)
	}
	return true
}

// seriesOf returns the series of a path, nil where there is no room for it. Most are
// spelled as Graphite stores them.
func (x *sums) seriesOf(p *pending, k kind, seq int32) *series {
	if !x.names.dropTags || bytes.IndexByte(p.path, ';') < 0 {
		if s := x.table.find(p.path, k, p.hash); s != nil {
			return s
		}
	}
	name := x.names.of(p.path, nil)
	hash := x.table.hash(name)
	if s := x.table.find(name, k, hash); s != nil {
		return s
	}
	return x.newSeries(name, k, hash, seq)
}

// newSeries returns a series that is put into the table, nil where there is no room.
func (x *sums) newSeries(name []byte, k kind, hash uint64, seq int32) *series {
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

// forget removes the i-th series. The last one takes its place.
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
func (x *sums) take(s *series, seq int32) taken {
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
