package aggregate

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"strconv"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// Two kinds of files survive the process (journal.go writes them). They are numbered by generation:
//
//	base-g   all series, as they were when lines-g began
//	lines-g  the lines that were counted since
//
// A base is written to a temporary file and gets its name when it is complete; then the
// files of earlier generations are removed. Lines are written once a read. A note among them
// names the slot of those after it: if that is another one, the slot before it was sealed.
//
// A base is written in parts while lines are being counted: in a flush, a part with each that
// is taken out; otherwise one with each read. A part ends with a note that says how far the
// base has come: a series in it is as it was then. Until that note, the base is ahead of the
// lines: they are counted in it already.
//
// A third, count, has how many lines the slots have, while one of the others could not be written.
//
// docs/decisions/0014 says why nothing counts twice.
//
//	base:   header\n | kind seq name value …\n | … | CRC-32 of all before, in hex
//	lines:  2 header\n, a note | 1 path:metrics\n | 3 number:metric\n | …
//
// 1, 2, and 3 are bytes; a header is JSON. The values are a counter's sum; a gauge's value; the
// weight of a timer's samples, and they; a set's members, in hex behind an x; or the weight of
// samples, what is exact of them, and their sketch, as a member. A series with a plain metric has
// a number from then on, in that file of lines: 1, 2, ….

// What a record of lines is, in its first byte.
const (
	whole byte = 1 + iota
	note
	numbered
)

// baseStep is how many series of a base are written at a time.
var baseStep = 256

// format tells these files from those of other versions.
const format = 6

// A header says where the slots are.
type header struct {
	Format int
	Slot   Slot
	Closed []Span
	Based  int `json:",omitempty"` // of a note: so many series of the base are written
}

func (a *Aggregator) header() header { return header{Format: format, Slot: a.open, Closed: a.closed} }

// beginBase begins a base, and the lines that follow it.
func (a *Aggregator) beginBase() {
	a.journal.turn(a.header())
	a.journal.last = len(a.order)
}

// writeBase writes at most n series of the base, if one is being written, and no flush does
// that.
func (a *Aggregator) writeBase(n int) {
	j := &a.journal
	if j.base == nil || a.isFlushing {
		return
	}
	for ; n > 0 && j.based < j.last; n-- {
		j.record(a.order[j.based])
	}
	if a.endPart(); j.based == j.last {
		j.commit()
	}
}

// endPart notes how far the base has come.
func (a *Aggregator) endPart() {
	if a.journal.base == nil {
		return
	}
	h := a.header()
	h.Based = a.journal.based
	if !a.journal.note(h) {
		a.journal.abandon()
	}
}

// checkpoint writes a whole base. Nothing is being flushed.
func (a *Aggregator) checkpoint() {
	a.beginBase()
	a.writeBase(len(a.order))
}

// record appends a series to the base, with what came in the open slot.
func (j *journal) record(s *series) {
	if j.base == nil {
		return
	}
	j.based++
	j.buf = append(strconv.AppendInt(append(j.buf, '0'+byte(s.kind), ' '), int64(s.seq), 10), ' ')
	j.buf = append(j.buf, s.name...)
	switch {
	case s.kind == counterKind, s.kind == gaugeKind:
		j.numbers(s.cur)
	case s.kind == setKind:
		for m := range s.set.cur {
			j.blob([]byte(m))
		}
	case s.timer.cur.sketch != nil:
		x := &s.timer.cur
		var sketch []byte
		x.sketch.Encode(&sketch, false)
		j.numbers(x.weight, x.n, x.sum, x.squares, x.lower, x.upper)
		j.blob(sketch)
	default:
		j.numbers(s.timer.cur.weight)
		j.numbers(s.timer.cur.values...)
	}
	j.buf = append(j.buf, '\n')
	j.spill(maxBuffered)
}

func (j *journal) numbers(all ...float64) {
	for _, v := range all {
		j.buf = strconv.AppendFloat(append(j.buf, ' '), v, 'g', -1, 64)
		j.spill(maxBuffered)
	}
}

func (j *journal) blob(b []byte) {
	j.buf = hex.AppendEncode(append(j.buf, ' ', 'x'), b)
	j.spill(maxBuffered)
}

// maxState bounds what is read of a file that somebody may have put there, in bytes.
const maxState = 1 << 30

// recall restores a base, and the lines after it, of which the last were written at that time. In
// no directory there is none.
func (a *Aggregator) recall(dir string, generation uint64) (written time.Time, err error) {
	if dir == "" {
		return written, nil
	}
	base, err := statedir.ReadFile(pathOf(dir, "base", generation), maxState)
	if err != nil {
		return written, err
	}
	if err := a.load(base); err != nil {
		return written, fmt.Errorf("%s: %w", pathOf(dir, "base", generation), err)
	}
	j := &a.journal
	j.dir, j.generation = dir, generation
	for ; ; generation++ {
		path := pathOf(dir, "lines", generation)
		text, err := statedir.ReadFile(path, maxState)
		text = text[:bytes.LastIndexByte(text, '\n')+1]
		if errors.Is(err, os.ErrNotExist) || err == nil && len(text) == 0 { // it had just begun
			break
		}
		if err != nil {
			return written, err
		}
		if info, err := os.Stat(path); err == nil {
			written = info.ModTime()
		}
		a.replay(text)
		j.generation = generation
		if j.follow(statedir.OpenFile(path, os.O_RDWR, 0o600)); j.lines != nil {
			j.size = int64(len(text))
			j.fail(j.lines.Truncate(j.size))
		}
	}
	for _, s := range a.order {
		s.ahead = false // what comes from now on is in no base
	}
	if a.isFlushing {
		a.beginBase()
		for _, s := range a.order[a.left:] { // the flush does not take out what came in the open slot
			a.journal.record(s)
		}
		a.endPart()
	}
	return written, nil
}

// replay counts the lines of a file again.
func (a *Aggregator) replay(text []byte) {
	a.journal.before = a.journal.given
	var series []*series // by number; nil: there was no room for it
	var r Reading
	for ln := range bytes.Lines(text) {
		if len(ln) == 1 {
			continue // nothing that was written
		}
		kind, record := ln[0], ln[1:len(ln)-1]
		counted := false
		switch kind {
		case note:
			a.heed(record)
		case whole:
			r.again(cut(record, ':'))
			p := &r.lines[0]
			counted = a.addLine(p, a.open.Seq)
			if p.kind != noKind {
				series = append(series, p.s)
				a.journal.number(p.s)
			}
		case numbered:
			number, metric := cut(record, ':')
			if n, _ := strconv.Atoi(string(number)); 0 < n && n <= len(series) {
				counted = a.recount(series[n-1], metric)
			}
		}
		if counted {
			a.open.Lines++
		}
	}
}

// recount counts a plain metric again.
func (a *Aggregator) recount(s *series, metric []byte) bool {
	var m plain
	return m.read(metric) && s != nil && s.kind == m.kind && a.addValue(s, metric[:m.text], m.value, m.weight, a.open.Seq)
}

// heed switches to the slot that a note names.
func (a *Aggregator) heed(text []byte) {
	var h header
	if json.Unmarshal(text, &h) != nil {
		return
	}
	for _, s := range a.order[:min(max(h.Based, 0), len(a.order))] {
		s.ahead = false
	}
	a.closed = h.Closed
	if h.Slot.Seq != a.open.Seq {
		if a.isFlushing {
			a.Take(len(a.order)) // it had left, but a base could not be written
		}
		a.seal(a.open, len(a.order))
	} else {
		h.Slot.Lines = a.open.Lines
	}
	a.open = h.Slot
}

// errDamaged says that a base is not what was written.
var errDamaged = errors.New("it is damaged")

// load reads a base.
func (a *Aggregator) load(base []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = errDamaged
		}
	}()
	records, sum := base[:len(base)-crcLen], base[len(base)-crcLen:]
	if string(sum) != crcText(crc32.ChecksumIEEE(records)) {
		return errDamaged
	}
	head, records := cut(records, '\n')
	var h header
	if err := json.Unmarshal(head, &h); err != nil {
		return err
	}
	if h.Format != format {
		return errors.New("another version wrote it")
	}
	a.open, a.closed, a.named = h.Slot, h.Closed, h.Slot.Tenure != ""
	a.memory.limit, a.samples.limit, a.sketches.limit = math.MaxInt64, math.MaxInt64, math.MaxInt64 // what is there stays
	defer a.configure(a.cfg)
	for ln := range bytes.Lines(records) {
		seq, rest := cut(ln[2:len(ln)-1], ' ')
		name, values := cut(rest, ' ')
		n, err := strconv.Atoi(string(seq))
		if err != nil {
			return err
		}
		s := a.newSeries(name, kind(ln[0]-'0'), hashOf(name), int32(n))
		s.ahead = true
		if err := a.restore(s, values); err != nil {
			return err
		}
	}
	return nil
}

// restore gives a series the values that record wrote.
func (a *Aggregator) restore(s *series, values []byte) error {
	var numbers []float64
	var blobs [][]byte
	for text := range bytes.FieldsSeq(values) {
		if text[0] == 'x' {
			blob, err := hex.AppendDecode(nil, text[1:])
			if err != nil {
				return err
			}
			blobs = append(blobs, blob)
			continue
		}
		v, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return err
		}
		numbers = append(numbers, v)
	}
	switch {
	case s.kind == setKind:
		for _, m := range blobs {
			a.member(s.set, m)
		}
	case s.kind != timerKind:
		s.cur, s.old = numbers[0], numbers[0]
	case len(blobs) > 0:
		x := &s.timer.cur
		a.toSketch(x)
		x.weight, x.n, x.sum, x.squares, x.lower, x.upper = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5]
		return x.decode(blobs[0])
	case len(numbers) > 0:
		for _, v := range numbers[1:] {
			a.sample(&s.timer.cur, v, 0)
		}
		s.timer.cur.weight = numbers[0]
	}
	return nil
}
