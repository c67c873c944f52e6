package aggregate

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"

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
// In the middle of a slot, a base is written in parts while lines are being counted. Each part
// ends with a note that says how far the base has come: a series in it is as it was then.
// Until that note, the base is ahead of the lines: they are counted in it already.
//
// docs/decisions/0014 says why nothing counts twice.
//
//	base:   header (JSON) \n | record … | 0 | CRC-32 of all before: 4
//	record: length + 1, name | kind: 1 | seq | a counter's or gauge's value, a timer's samples, or a set's members
//
//	lines:  whole | path | ':' | metrics | \n; numbered | number | metrics | \n; note | header (JSON) | \n
//
// Integers are varints, values float64 (little endian). A series whose only metric is written
// whole has a number from then on, in that file: 0, 1, ….

// What a record of lines is, in its first byte.
const (
	whole byte = 1 + iota
	note
	numbered
)

// baseStep is how many series of a base are written at a time.
var baseStep = 256

// format tells these files from those of other versions.
const format = 4

// A header says where the slots are.
type header struct {
	Format int
	Slot   Slot
	Closed []Span
	Parts  bool `json:",omitempty"` // of a base: it was written in the middle of a slot
	Based  int  `json:",omitempty"` // of a note: so many series of that base are written
}

func (a *Aggregator) header() header { return header{Format: format, Slot: a.open, Closed: a.closed} }

// beginBase begins a base in the middle of a slot. Nothing is being flushed.
func (a *Aggregator) beginBase() {
	h := a.header()
	h.Parts = true
	a.journal.turn(h)
	a.journal.based, a.journal.last = 0, len(a.order)
}

// writeBase writes at most n series of the base, if one is being written.
func (a *Aggregator) writeBase(n int) {
	j := &a.journal
	if j.base == nil || !j.parts {
		return
	}
	for ; n > 0 && j.based < j.last; n-- {
		s := a.order[j.based]
		j.record(s, s.seq, s.cur, true)
		j.based++
	}
	h := a.header()
	h.Based = j.based
	if !j.note(h) {
		j.abandon()
	} else if j.based == j.last {
		j.commit()
	}
}

// checkpoint writes a whole base. Nothing is being flushed.
func (a *Aggregator) checkpoint() {
	a.beginBase()
	a.writeBase(len(a.order))
}

// record appends a series to the base: with what came in the open slot, or with what it was
// before.
func (j *journal) record(s *series, seq int32, value float64, open bool) {
	if j.base == nil {
		return
	}
	j.buf = append(binary.AppendUvarint(j.buf, uint64(len(s.name))+1), s.name...)
	j.buf = binary.AppendVarint(append(j.buf, byte(s.kind)), int64(seq))
	switch {
	case s.timer != nil && open:
		j.buf = s.timer.cur.encode(j.buf)
	case s.timer != nil:
		j.buf = (&samples{}).encode(j.buf)
	case s.set != nil && open:
		j.buf = binary.AppendUvarint(j.buf, uint64(len(s.set.cur)))
		for m := range s.set.cur {
			j.buf = append(binary.AppendUvarint(j.buf, uint64(len(m))), m...)
		}
	case s.set != nil:
		j.buf = binary.AppendUvarint(j.buf, 0)
	default:
		j.buf = appendFloats(j.buf, value)
	}
	j.spill(64 << 10)
}

func appendFloats(dst []byte, all ...float64) []byte {
	for _, v := range all {
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
	}
	return dst
}

// encode appends samples.
func (s *samples) encode(dst []byte) []byte {
	dst = appendFloats(dst, s.weight)
	if s.sketch == nil {
		return appendFloats(binary.AppendUvarint(dst, uint64(len(s.values))<<1), s.values...)
	}
	var b []byte
	s.sketch.Encode(&b, false)
	dst = append(binary.AppendUvarint(dst, uint64(len(b))<<1|1), b...)
	return appendFloats(dst, s.n, s.sum, s.squares, s.lower, s.upper)
}

// maxState bounds what is read of a file that somebody may have put there, in bytes.
const maxState = 1 << 30

// recall restores a base, and the lines after it.
func (a *Aggregator) recall(dir string, generation uint64) error {
	base, err := statedir.ReadFile(pathOf(dir, "base", generation), maxState)
	if err != nil {
		return err
	}
	if err := a.load(base); err != nil {
		return fmt.Errorf("%s: %w", pathOf(dir, "base", generation), err)
	}
	j := &a.journal
	j.dir, j.generation = dir, generation
	for ; ; generation++ {
		path := pathOf(dir, "lines", generation)
		text, err := statedir.ReadFile(path, maxState)
		if errors.Is(err, os.ErrNotExist) || err == nil && bytes.IndexByte(text, '\n') < 0 { // it had just begun
			break
		}
		if err != nil {
			return err
		}
		if info, err := os.Stat(path); err == nil {
			j.found = info.ModTime()
		}
		size := a.replay(text)
		j.generation = generation
		if j.follow(statedir.OpenFile(path, os.O_RDWR, 0o600)); j.lines != nil {
			j.size = int64(size)
			j.fail(j.lines.Truncate(j.size))
		}
	}
	if a.isFlushing {
		j.create(a.header())
	}
	return nil
}

// replay counts the lines of a file again. It returns how long they are, without one that was
// cut at the end.
func (a *Aggregator) replay(text []byte) (size int) {
	a.journal.before = a.journal.numbers
	var series []*series // by number; nil: there was no room for it
	var r Reading
	for {
		kind, number, record, n := cutRecord(text[size:])
		size += n
		switch {
		case n == 0:
			return size
		case kind == note:
			a.heed(record)
		case kind == numbered && number < uint64(len(series)):
			a.recount(series[number], record)
		case kind == whole:
			r.again(cut(record, ':'))
			p := &r.lines[0]
			if a.addLine(p, a.open.Seq) {
				a.open.Lines++
			}
			if p.kind != noKind {
				series = append(series, p.s)
				a.journal.number(p.s)
			}
		}
	}
}

// recount counts a plain metric again.
func (a *Aggregator) recount(s *series, metric []byte) {
	var m plain
	if m.read(metric) && s != nil && s.kind == m.kind && a.addValue(s, metric[:m.text], m.value, m.weight, a.open.Seq) {
		a.open.Lines++
	}
}

// cutRecord cuts the first record off what is in a file of lines; n is how long it is, 0 if it
// is not whole.
func cutRecord(b []byte) (kind byte, number uint64, record []byte, n int) {
	if len(b) == 0 {
		return 0, 0, nil, 0
	}
	kind, n = b[0], 1
	if kind == numbered {
		var size int
		if number, size = binary.Uvarint(b[1:]); size <= 0 {
			return 0, 0, nil, 0
		}
		n += size
	}
	end := bytes.IndexByte(b[n:], '\n')
	if end < 0 {
		return 0, 0, nil, 0
	}
	return kind, number, b[n:][:end], n + end + 1
}

// heed switches to the slot that a note names.
func (a *Aggregator) heed(text []byte) {
	var h header
	if json.Unmarshal(text, &h) != nil {
		return
	}
	for _, s := range a.order[:min(h.Based, len(a.order))] {
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
	n := len(base) - 4
	if n < 0 || crc32.ChecksumIEEE(base[:n]) != binary.LittleEndian.Uint32(base[n:]) {
		return errDamaged
	}
	head, records := cut(base[:n], '\n')
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
	r := reader{records}
	for length := r.uvarint(); length > 0; length = r.uvarint() {
		name := r.bytes(length - 1)
		s := a.newSeries(name, kind(r.bytes(1)[0]), hashOf(name), int32(r.varint()))
		s.ahead = h.Parts
		if err := a.loadValues(&r, s); err != nil {
			return err
		}
	}
	return nil
}

// loadValues reads what a series has.
func (a *Aggregator) loadValues(r *reader, s *series) error {
	switch s.kind {
	case timerKind:
		return a.loadSamples(r, &s.timer.cur)
	case setKind:
		for range r.uvarint() {
			a.member(s.set, r.bytes(r.uvarint()))
		}
	default:
		s.cur = r.float()
		s.old = s.cur
	}
	return nil
}

func (a *Aggregator) loadSamples(r *reader, s *samples) (err error) {
	weight, n := r.float(), r.uvarint()
	if n&1 == 0 {
		for range n >> 1 {
			a.sample(s, r.float(), 0)
		}
	} else {
		a.toSketch(s)
		if s.sketch, err = decodeSketch(r.bytes(n >> 1)); err != nil {
			return err
		}
		s.n, s.sum, s.squares, s.lower, s.upper = r.float(), r.float(), r.float(), r.float(), r.float()
	}
	s.weight = weight
	return nil
}

// A reader reads what record wrote. It is complete, since the checksum is right.
type reader struct{ b []byte }

func (r *reader) uvarint() int {
	v, n := binary.Uvarint(r.b)
	r.b = r.b[max(n, 0):]
	return int(v)
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.b)
	r.b = r.b[max(n, 0):]
	return v
}

func (r *reader) bytes(n int) []byte {
	b := r.b[:n]
	r.b = r.b[n:]
	return b
}

func (r *reader) float() float64 { return math.Float64frombits(binary.LittleEndian.Uint64(r.bytes(8))) }
