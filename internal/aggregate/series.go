package aggregate

import (
	"bytes"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// A series is what is kept of one name and kind. cur is what arrived in the slot seq, the last
// one in which anything arrived. If that is the open slot, old is what arrived in the slot
// before, until its points have left.
//
// It is as large as a cache line.
type series struct {
	name     string
	kind     kind
	seq      int32
	number   uint64  // in the journal
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
		s.timer.old, s.timer.cur = s.timer.cur, samples{}
	case setKind:
		s.set.old, s.set.cur = s.set.cur, nil
	}
}

// What things take in memory, including the table, the heap and the garbage collector.
const (
	seriesCost = 200
	timerCost  = 128 + 2*8*smallTimer
	setCost    = 2 * 192 // a map for each of cur and old, with room for eight members
	memberCost = 96
	sketchCost = 512
	binCost    = 12 // 8, and what append adds
	spareBins  = 64 // at either end

	spellingCost = 96
)

// sums are the series, and their bounds.
type sums struct {
	table table
	order []*series // the same
	names canonicalizer

	spellings map[spelling]*series // to sort tags costs more than to count

	memory, samples, sketches, spelling room
	sketched                            uint64
	fetched                             uint64
}

func newSums() sums { return sums{table: newTable(), spellings: map[spelling]*series{}} }

func (x *sums) configure(cfg Config) {
	x.limit(int64(cfg.Memory), int64(cfg.Memory))
	x.names.dropTags = cfg.Tags == DropTags
	x.forgetSpellings()
}

// limit bounds what series take, in bytes; spare, what they can do without: timers go on in
// sketches, and spellings are read anew.
func (x *sums) limit(memory, spare int64) {
	x.memory.limit, x.sketches.limit = memory/2, memory/8
	x.samples.limit, x.spelling.limit = spare/4, spare/8
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

// lookahead is how many lines wait for memory at the same time.
const lookahead = 32

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
		p.s = x.spelled(p, seq)
		return x.addValue(p.s, p.metrics[:p.text], p.value, p.weight, seq)
	}
	path := p.path
	if tags := tagsOf(p.metrics); len(tags) > 0 {
		path = x.names.of(path, tags)
	}
	eachValue(p.metrics, func(k kind, text []byte, v, weight float64, why line.Result) {
		if why.Appended() && x.addValue(x.seriesOf(path, hashOf(path), k, seq), text, v, weight, seq) {
			counted = true
		}
	})
	return counted
}

// addValue counts one value, if there is room: s is nil where there is none.
func (x *sums) addValue(s *series, text []byte, v, weight float64, seq int32) bool {
	if s == nil {
		return false
	}
	s.touch(seq)
	switch s.kind {
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
func (x *sums) seriesOf(path []byte, hash uint64, k kind, seq int32) *series {
	if !x.names.dropTags || bytes.IndexByte(path, ';') < 0 {
		if s := x.table.find(path, k, hash); s != nil {
			return s
		}
	}
	name := x.names.of(path, nil)
	hash = hashOf(name)
	if s := x.table.find(name, k, hash); s != nil {
		return s
	}
	return x.newSeries(name, k, hash, seq)
}

// A spelling is how lines write a name with tags: "a|#c:2,b:1" for a;b=1;c=2.
type spelling struct {
	path, tags string
	kind       kind
}

// spelled returns the series of a line with a plain metric, nil where there is no room for it.
// Spellings with tags are remembered; where there is no room for one, all others are forgotten.
func (x *sums) spelled(p *pending, seq int32) *series {
	if p.tags == 0 || x.names.dropTags {
		return x.seriesOf(p.path, p.hash, p.kind, seq)
	}
	if s := x.spellings[spelling{string(p.path), string(p.dog()), p.kind}]; s != nil {
		return s
	}
	name := x.names.of(p.path, p.dog()[len(tagStart):])
	s := x.seriesOf(name, hashOf(name), p.kind, seq)
	if s == nil {
		return nil
	}
	cost := int64(spellingCost + len(p.path) + int(p.tags))
	if !x.spelling.take(cost) {
		x.forgetSpellings()
		x.spelling.take(cost)
	}
	x.spellings[spelling{string(p.path), string(p.dog()), p.kind}] = s
	return s
}

func (x *sums) forgetSpellings() {
	clear(x.spellings)
	x.spelling.used = 0
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
	x.table.remove(s, hashOf([]byte(s.name)))
	x.order[i], x.order[last] = x.order[last], nil
	x.order = x.order[:last]
	x.forgetSpellings()
}

func costOf(name int, k kind) int64 {
	cost := int64(seriesCost + name)
	switch k {
	case timerKind:
		cost += timerCost
	case setKind:
		cost += setCost
	}
	return cost
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
		t.samples = s.timer.old
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
