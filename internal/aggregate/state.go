package aggregate

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// What survives the process is a log (journal.go writes it): the lines that are counted, as they
// come, and, among them, a base: all series that there were when the log began. Logs are
// numbered by generation:
//
//	base-g   has all of its base: no older log is needed
//	lines-g  goes on where the logs before it end; its base is still being written
//
// Behind its head, a log has records, each with its kind in the first byte:
//
//	note      header           JSON; the slot of the lines behind it: if it is another, that before it is sealed
//	whole     path:metrics     a line
//	numbered  number:metric    a line with a plain metric, of a series that has a number
//	based     kind seq v name  a series, as it is here; v: a counter's sum, a gauge's value, the weight of samples
//	values    v v …            and some of its samples; or a member of a set
//	sketched  v v v v v v n …  what is exact of its samples, and the bins of their sketch
//	baseEnd   sum              CRC-32 of all before it, but for the head
//
// A series has a number, in a log, from the first whole or based record on that names it and no
// other: 1, 2, ….
//
// Lines are written once a read; of a base, a part with each read, or, in a flush, with each part
// that is taken out. A series in it replaces what the lines before it made of that series, but only
// in a log that has all of its base: in one that goes on, it names the series, and says a gauge's value,
// as the logs before do, unless they had to go.
//
// docs/decisions/0014 says why nothing counts twice.
const (
	whole byte = 1 + iota
	note
	numbered
	based
	values
	sketched
	baseEnd
)

// baseStep is how many series of a base are written at a time.
var baseStep = 256

// A header says where the slots are.
type header struct {
	Slot   Slot
	Closed []Span
}

// note names the slot of what follows it.
func (a *Aggregator) note() {
	text, err := json.Marshal(header{a.open, a.closed})
	j := &a.journal
	j.fail(err)
	j.begin(note)
	j.pending = append(j.pending, text...)
	j.end()
	j.flush()
}

// beginBase begins a log.
func (a *Aggregator) beginBase() {
	a.journal.rotate(len(a.order))
	a.note()
}

// writeBase writes at most n series of the base, if one is being written: in a flush, of those
// that are taken.
func (a *Aggregator) writeBase(n int) {
	j := &a.journal
	if !j.isBasing() {
		return
	}
	for ; n > 0 && j.left > a.left; n-- {
		if j.left--; j.left < len(a.order) {
			j.writeSeries(a.order[j.left])
		}
	}
	if j.left == 0 && !a.IsFlushing() {
		j.commit()
	}
}

// checkpoint writes a whole base. Nothing is being flushed.
func (a *Aggregator) checkpoint() {
	a.beginBase()
	a.writeBase(a.journal.left)
}

// count appends a line that was counted.
func (l *log) count(p *pending) {
	if l.file == nil || l.broken {
		return
	}
	metrics := p.metrics
	if p.kind != noKind && p.s.number > l.before {
		l.begin(numbered)
		l.pending = strconv.AppendUint(l.pending, p.s.number-l.before, 10)
		metrics = metrics[:p.length]
	} else {
		l.begin(whole)
		l.pending = append(l.pending, p.path...)
		if p.kind != noKind {
			l.giveNumber(p.s)
		}
	}
	l.pending = append(append(l.pending, ':'), metrics...)
	l.end()
}

// giveNumber gives the next number to s, or to nobody.
func (l *log) giveNumber(s *series) {
	l.given++
	if s != nil {
		s.number = l.given
	}
}

// maxValues is how many samples a record has at most; maxRecord how many bytes any does.
const (
	maxValues = 2 << 10
	maxRecord = 64 << 10
)

// writeSeries appends a series to the base, with what came in the open slot.
func (j *journal) writeSeries(s *series) {
	var x samples
	if s.kind == timerKind {
		x = s.timer.cur
	}
	j.begin(based)
	j.pending = strconv.AppendInt(append(j.pending, '0'+byte(s.kind), ' '), int64(s.seq), 10)
	j.numbers(s.cur + x.weight) // of which one is 0
	j.pending = append(append(j.pending, ' '), s.name...)
	j.spill()
	j.giveNumber(s)
	if x.sketch != nil {
		j.begin(sketched)
		j.numbers(x.n, x.sum, x.squares, x.lower, x.upper)
		x.sketch.ForEach(func(v, n float64) bool {
			j.numbers(v, n)
			return false
		})
		j.spill()
	}
	for part := range slices.Chunk(x.values, maxValues) {
		j.begin(values)
		j.numbers(part...)
		j.spill()
	}
	if s.kind == setKind {
		for m := range s.set.cur {
			j.begin(values)
			j.pending = append(j.pending, m...)
			j.spill()
		}
	}
}

func (l *log) numbers(all ...float64) {
	for _, v := range all {
		l.pending = strconv.AppendFloat(append(l.pending, ' '), v, 'g', -1, 64)
	}
}

// spill ends a record of a base.
func (j *journal) spill() {
	if j.end(); len(j.pending) > maxRecord {
		j.flush()
	}
}

// recall goes on with the newest base in logs and what comes after it, and returns when the last
// of that was written.
func (a *Aggregator) recall(logs []logFile) (written time.Time, err error) {
	first := 0
	for i, l := range logs {
		if l.kind == baseKind {
			first = i
		}
	}
	for _, l := range logs[first:] {
		file, err := statedir.OpenFile(l.path(), os.O_RDWR, 0)
		if err != nil {
			return written, err
		}
		info, err := file.Stat()
		if err != nil {
			return written, errors.Join(err, file.Close())
		}
		if info.Size() < headLen { // it got no further
			file.Close()
			continue
		}
		a.journal.dir, a.journal.generation, written = l.dir, l.generation, info.ModTime()
		if err := a.replay(file, l.kind == baseKind); err != nil {
			return written, fmt.Errorf("%s: %w", l.path(), err)
		}
	}
	return written, nil
}

// replay counts the lines of a log again, which is then the one that is written. If it has a base,
// nothing was there before.
func (a *Aggregator) replay(file *os.File, hasBase bool) (err error) {
	defer func() {
		if recover() != nil {
			err = errDamaged
		}
	}()
	in := bufio.NewReaderSize(file, 4*maxRecord) // of all bins of a sketch, some 120 KiB
	if head, _ := in.ReadSlice('\n'); !bytes.HasPrefix(head, []byte(format)) {
		return errors.New("another version wrote it")
	}
	j := &a.journal
	j.follow(file, headLen)
	memory := int64(a.cfg.Memory)
	defer a.limit(memory, memory)
	if a.limit(math.MaxInt64, memory); hasBase { // what was counted stays
		a.limit(math.MaxInt64, math.MaxInt64)
	}
	r := replay{Aggregator: a, restores: hasBase}
	for {
		record, err := in.ReadSlice('\n')
		if err == io.EOF {
			break // what is behind the last '\n' was cut
		}
		if err != nil {
			return err
		}
		if len(record) > 1 { // as all that were written
			if err := r.record(record[0], record[1:len(record)-1]); err != nil {
				return err
			}
		}
		j.size += int64(len(record))
		j.sum = crc32.Update(j.sum, crc32.IEEETable, record)
	}
	if r.restores && j.size > headLen { // else Flushed has cut it
		return errDamaged
	}
	j.fail(file.Truncate(j.size))
	return nil
}

var errDamaged = errors.New("it is damaged")

// A replay reads the records of a log.
type replay struct {
	*Aggregator
	restores bool      // it has a base, whose end has not come yet
	known    []*series // by number; nil: there was no room for it
	s        *series   // to which values belong
	line     Reading
}

func (r *replay) record(kind byte, text []byte) error {
	j := &r.journal
	counted := false
	switch kind {
	case note:
		r.heed(text)
	case whole:
		r.line.again(cut(text, ':'))
		p := &r.line.lines[0]
		if counted = r.addLine(p, r.open.Seq); p.kind != noKind {
			r.name(p.s)
		}
	case numbered:
		number, metric := cut(text, ':')
		if n, _ := strconv.Atoi(string(number)); 0 < n && n <= len(r.known) {
			counted = r.recount(r.known[n-1], metric)
		}
	case based:
		r.s = r.readSeries(text)
		r.name(r.s)
	case values, sketched:
		if r.restores {
			return r.restore(kind, text)
		}
	case baseEnd:
		if !r.restores {
			break
		}
		if string(text) != fmt.Sprintf("%08x", j.sum) {
			return errDamaged
		}
		r.restores, j.base = false, j.size
		r.limit(math.MaxInt64, int64(r.cfg.Memory))
	}
	if counted {
		r.open.Lines++
	}
	return nil
}

// name gives a series the next number.
func (r *replay) name(s *series) {
	r.known = append(r.known, s)
	r.journal.giveNumber(s)
}

// recount counts a plain metric again.
func (a *Aggregator) recount(s *series, metric []byte) bool {
	var m plain
	return m.read(metric) && s != nil && s.kind == m.kind && a.addValue(s, metric[:m.text], m.value, m.weight, a.open.Seq)
}

// heed switches to the slot that a note names.
func (r *replay) heed(text []byte) {
	var h header
	if json.Unmarshal(text, &h) != nil {
		return
	}
	switch {
	case r.open.Seq == 0 && r.restores:
		r.named = h.Slot.Tenure != ""
	case r.open.Seq == 0, r.open.Seq == h.Slot.Seq:
		h.Slot.Lines = r.open.Lines
	default:
		if r.IsFlushing() {
			r.Take(len(r.order)) // it had left, but a base could not be written
		}
		r.seal(r.open, len(r.order))
	}
	r.open, r.closed = h.Slot, h.Closed
}

// readSeries returns the series of a record; if the base counts, it is now as the record has it.
func (r *replay) readSeries(text []byte) *series {
	digit, text := cut(text, ' ')
	seqText, text := cut(text, ' ')
	value, name := cut(text, ' ')
	number, _ := strconv.Atoi(string(digit))
	k, hash := kind(number), hashOf(name)
	s := r.table.find(name, k, hash)
	if s == nil && noKind < k && k <= setKind {
		s = r.newSeries(name, k, hash, 0)
	}
	if r.restores {
		r.take(s, s.seq+1) // which is in the record
	} else if s == nil || k != gaugeKind {
		return s
	}
	seq, _ := strconv.Atoi(string(seqText))
	v, _ := strconv.ParseFloat(string(value), 64)
	s.seq = int32(seq)
	if k == timerKind {
		s.timer.cur.weight = v
	} else {
		s.cur = v
	}
	return s
}

// restore gives values to the series before them.
func (r *replay) restore(kind byte, text []byte) error {
	if r.s.kind == setKind {
		r.member(r.s.set, text)
		return nil
	}
	var numbers []float64
	for text := range bytes.FieldsSeq(text) {
		v, err := strconv.ParseFloat(string(text), 64)
		if err != nil {
			return err
		}
		numbers = append(numbers, v)
	}
	x := &r.s.timer.cur
	if kind == values {
		for _, v := range numbers {
			r.sample(x, v, 0)
		}
		return nil
	}
	r.toSketch(x)
	x.n, x.sum, x.squares, x.lower, x.upper = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
	for bin := range slices.Chunk(numbers[5:], 2) {
		r.addToBin(x, bin[0], bin[1])
	}
	return nil
}
