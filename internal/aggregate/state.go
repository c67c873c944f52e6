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
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What survives the process are two kinds of files, by generation:
//
//	base-g   all series, as they were when lines-g began
//	lines-g  the lines that were counted since, as Add takes them
//
// A base is written beside, and gets its name when it is whole; then the files of earlier
// generations go. Lines are written before they are counted. A line that begins with a
// note (0x02) says which slot those behind it are of: where it is another, the one before
// was sealed.
//
// docs/decisions/0014 says why nothing counts twice.
//
//	base:   header (JSON) \n | record … | 0 | CRC-32 of all before: 4
//	record: length + 1, name | kind: 1 | seq | a counter's or gauge's value, a timer's samples, or a set's members
//
// Integers are varints, values float64 (little endian).

const (
	note     = 0x02
	minLines = 8 << 20 // bytes of lines from which a base is worth more, if it is no longer
)

// format tells these files from those of other versions.
const format = 2

// A header says where the slots are.
type header struct {
	Format int
	Slot   Slot
	Closed []Span
}

func (a *Aggregator) header() header { return header{format, a.open, a.closed} }

// A journal writes the files. Without a directory it does nothing. Its first error is
// kept, and said by Trouble.
type journal struct {
	dir        string
	generation uint64
	lines      *os.File // lines-generation
	size       int64    // of lines, and of those before it in this slot
	err        error

	base    *os.File // beside, while it is written
	buf     []byte   // of it, not written
	sum     uint32
	written int64
	last    int64 // length of the last base
}

// Trouble returns what went wrong with the files since it was asked last.
func (a *Aggregator) Trouble() error {
	err := a.journal.err
	a.journal.err = nil
	return err
}

func (j *journal) path(kind string, generation uint64) string {
	return filepath.Join(j.dir, fmt.Sprintf("%s-%016x", kind, generation))
}

func (j *journal) fail(err error) {
	if j.err == nil && err != nil {
		j.err = err
	}
}

// Log keeps whole lines, of which each is then given to Add.
func (a *Aggregator) Log(lines []byte) {
	j := &a.journal
	if j.lines == nil || len(lines) == 0 {
		return
	}
	if limit := max(minLines, 2*j.last); j.size > limit && !a.flushing {
		a.checkpoint()
	}
	j.write(lines)
}

func (j *journal) write(b []byte) {
	if j.lines == nil {
		return
	}
	if _, err := j.lines.WriteAt(b, j.size); err != nil {
		j.fail(err)
		j.fail(j.lines.Truncate(j.size)) // no line goes on in the next
		return
	}
	j.size += int64(len(b))
}

// note says of which slot the lines behind it are.
func (j *journal) note(h header) {
	text, err := json.Marshal(h)
	j.fail(err)
	j.write(append(append([]byte{note}, text...), '\n'))
}

// turn begins the lines of the next generation, and the base that they go on from.
func (j *journal) turn(h header) {
	if j.dir == "" {
		return
	}
	if j.lines != nil {
		j.lines.Close()
	}
	j.generation++
	var err error
	j.lines, err = os.OpenFile(j.path("lines", j.generation), os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	j.fail(err)
	if err != nil {
		j.lines = nil
	}
	j.size = 0
	j.note(h)
	j.create(h)
}

// create begins a base.
func (j *journal) create(h header) {
	if j.base != nil {
		j.base.Close()
	}
	h.Slot.Lines = 0
	var err error
	j.base, err = os.OpenFile(filepath.Join(j.dir, "base.new"), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	j.fail(err)
	if err != nil {
		j.base = nil
		return
	}
	text, err := json.Marshal(h)
	j.fail(err)
	j.buf, j.sum, j.written = append(append(j.buf[:0], text...), '\n'), 0, 0
}

// commit ends the base, which takes the place of what is older.
func (j *journal) commit() {
	if j.base == nil {
		return
	}
	j.buf = append(j.buf, 0)
	j.spill(0)
	j.buf = binary.LittleEndian.AppendUint32(j.buf, j.sum)
	err := j.spill(0)
	if err = errors.Join(err, j.base.Close()); err == nil {
		err = os.Rename(j.base.Name(), j.path("base", j.generation))
	}
	j.base, j.last = nil, j.written
	if err != nil {
		j.fail(err)
		return
	}
	j.removeBefore(j.generation)
}

// removeBefore removes what an earlier generation needed: bases first, since lines
// without theirs are never read.
func (j *journal) removeBefore(generation uint64) {
	for _, kind := range []string{"base", "lines"} {
		for _, g := range generationsOf(j.dir, kind) {
			if g < generation {
				os.Remove(j.path(kind, g))
			}
		}
	}
}

// spill writes what is in the buffer, if it is more than that.
func (j *journal) spill(most int) error {
	if j.base == nil || len(j.buf) <= most {
		return nil
	}
	j.sum = crc32.Update(j.sum, crc32.IEEETable, j.buf)
	n, err := j.base.Write(j.buf)
	j.written += int64(n)
	j.buf = j.buf[:0]
	j.fail(err)
	if err != nil {
		j.base.Close()
		j.base = nil
	}
	return err
}

// keep writes a series as it was when the slot of seq ended, behind take.
func (j *journal) keep(s *series, seq int64) {
	if j.base == nil {
		return
	}
	j.record(s, min(s.seq, seq), s.old, &samples{}, nil)
	j.spill(64 << 10)
}

// checkpoint writes a base in the middle of a slot, since its lines have become long.
// Nothing is being flushed.
func (a *Aggregator) checkpoint() {
	j := &a.journal
	h := a.header()
	j.turn(h)
	if j.base == nil {
		return
	}
	text, _ := json.Marshal(h)
	j.buf = append(append(j.buf[:0], text...), '\n')
	for _, s := range a.order {
		var values *samples
		var members map[string]struct{}
		if s.timer != nil {
			values = &s.timer.cur
		}
		if s.set != nil {
			members = s.set.cur
		}
		j.record(s, s.seq, s.cur, values, members)
		j.spill(64 << 10)
	}
	j.commit()
}

// record appends a series with what it has.
func (j *journal) record(s *series, seq int64, value float64, values *samples, members map[string]struct{}) {
	j.buf = append(binary.AppendUvarint(j.buf, uint64(len(s.name))+1), s.name...)
	j.buf = binary.AppendVarint(append(j.buf, byte(s.kind)), seq)
	switch s.kind {
	case timerKind:
		j.buf = values.encode(j.buf)
	case setKind:
		j.buf = binary.AppendUvarint(j.buf, uint64(len(members)))
		for m := range members {
			j.buf = append(binary.AppendUvarint(j.buf, uint64(len(m))), m...)
		}
	default:
		j.buf = appendFloat(j.buf, value)
	}
}

func appendFloat(dst []byte, v float64) []byte {
	return binary.LittleEndian.AppendUint64(dst, math.Float64bits(v))
}

// encode appends samples.
func (s *samples) encode(dst []byte) []byte {
	dst = appendFloat(dst, s.weight)
	if s.sketch == nil {
		dst = binary.AppendUvarint(dst, uint64(len(s.values))<<1)
		for _, v := range s.values {
			dst = appendFloat(dst, v)
		}
		return dst
	}
	var b []byte
	s.sketch.Encode(&b, false)
	dst = binary.AppendUvarint(dst, uint64(len(b))<<1|1)
	dst = append(dst, b...)
	for _, v := range []float64{s.n, s.sum, s.squares, s.lower, s.upper} {
		dst = appendFloat(dst, v)
	}
	return dst
}

// A reader reads what record wrote; all of it is there, since the sum is right.
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

// Close ends the use of the files: what there is, is for the next process, on disk if
// there is one. Nothing is being flushed.
func (a *Aggregator) Close(disk string) error {
	j := &a.journal
	if j.dir == "" {
		return nil
	}
	was := j.dir
	if disk != "" {
		j.dir = disk
		j.fail(os.MkdirAll(disk, 0o700))
	}
	a.checkpoint()
	if j.lines != nil {
		j.lines.Close()
	}
	err := errors.Join(j.err, syncFile(j.path("base", j.generation)), syncFile(j.dir))
	if err == nil && was != j.dir {
		old := journal{dir: was}
		old.removeBefore(j.generation)
	}
	return err
}

func syncFile(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Open returns an aggregator that goes on where the last process ended: in the newest
// state that is in one of dirs. What it writes is in the first; "" are none.
func Open(cfg Config, dirs []string, now time.Time) (*Aggregator, error) {
	a := newAggregator(cfg)
	var found string
	for _, dir := range dirs {
		for _, g := range generationsOf(dir, "base") {
			if g > a.journal.generation {
				a.journal.generation, found = g, dir
			}
		}
	}
	run := ""
	for _, dir := range dirs {
		if dir != "" && run == "" {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return nil, fmt.Errorf("aggregate: %w", err)
			}
			run = dir
		}
	}
	fresh := true
	if found != "" {
		a.journal.dir = found
		err := a.recall()
		if fresh = err != nil; fresh {
			g := a.journal.generation
			a = newAggregator(cfg)
			a.journal.generation = g
			a.journal.err = fmt.Errorf("what the last process had counted is lost: %w", err)
		}
	}
	if fresh {
		a.open = Slot{Seq: 1, Start: a.next(now.Unix()), Interval: int64(cfg.Interval / time.Second)}
	}
	if fresh || !a.flushing {
		a.journal.dir = run
		if run != "" {
			if a.journal.lines != nil {
				a.journal.lines.Close()
			}
			a.checkpoint()
			for _, dir := range dirs {
				if dir != "" {
					old := journal{dir: dir}
					old.removeBefore(a.journal.generation)
				}
			}
		}
	}
	return a, nil
}

// IsLeft says whether an earlier process has left anything in one of dirs.
func IsLeft(dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return len(generationsOf(dir, "base")) > 0 })
}

// generationsOf returns those of a kind of files.
func generationsOf(dir, kind string) (all []uint64) {
	entries, _ := os.ReadDir(dir) // where there is none, there are none
	for _, e := range entries {
		digits, ok := strings.CutPrefix(e.Name(), kind+"-")
		if g, err := strconv.ParseUint(digits, 16, 64); ok && err == nil {
			all = append(all, g)
		}
	}
	return all
}

// recall reads the base, and the lines behind it.
func (a *Aggregator) recall() error {
	j := &a.journal
	base, err := os.ReadFile(j.path("base", j.generation))
	if err != nil {
		return err
	}
	if err := a.load(base); err != nil {
		return fmt.Errorf("%s: %w", j.path("base", j.generation), err)
	}
	for {
		f, err := os.OpenFile(j.path("lines", j.generation), os.O_RDWR, 0o600)
		if errors.Is(err, os.ErrNotExist) {
			break
		}
		if err != nil {
			return err
		}
		text, err := os.ReadFile(f.Name())
		if err != nil {
			return err
		}
		whole := text[:bytes.LastIndexByte(text, '\n')+1]
		if len(whole) == 0 {
			f.Close()
			break // it had just begun
		}
		a.replay(whole)
		if j.lines != nil {
			j.lines.Close()
		}
		j.lines, j.size = f, int64(len(whole))
		j.fail(f.Truncate(j.size))
		j.generation++
	}
	if j.lines != nil {
		j.generation--
	}
	if a.flushing {
		j.create(a.header())
	}
	return nil
}

// replay counts lines once more, from note to note.
func (a *Aggregator) replay(lines []byte) {
	for len(lines) > 0 {
		if lines[0] == note {
			var text []byte
			text, lines, _ = bytes.Cut(lines, newline)
			a.heed(text[1:])
		}
		end := bytes.IndexByte(lines, note)
		if end < 0 {
			end = len(lines)
		}
		a.Add(lines[:end], func([]byte, Reason) {})
		lines = lines[end:]
	}
}

// heed goes on in the slot that a note tells of.
func (a *Aggregator) heed(text []byte) {
	var h header
	if json.Unmarshal(text, &h) != nil {
		return
	}
	a.closed = h.Closed
	if h.Slot.Seq != a.open.Seq {
		a.seal()
	} else {
		h.Slot.Lines = a.open.Lines
	}
	a.open = h.Slot
}

// load reads a base.
func (a *Aggregator) load(base []byte) (err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("it is damaged")
		}
	}()
	n := len(base) - 4
	if n < 0 || crc32.ChecksumIEEE(base[:n]) != binary.LittleEndian.Uint32(base[n:]) {
		return errors.New("it is damaged")
	}
	head, records, _ := bytes.Cut(base[:n], []byte{'\n'})
	var h header
	if err := json.Unmarshal(head, &h); err != nil {
		return err
	}
	if h.Format != format {
		return errors.New("another version wrote it")
	}
	a.open, a.closed = h.Slot, h.Closed
	a.named = h.Slot.Tenure != ""
	a.series.limit, a.samples.limit, a.sketches.limit = math.MaxInt64, math.MaxInt64, math.MaxInt64 // what is there stays
	defer a.configure(a.cfg)
	r := reader{records}
	for {
		length := r.uvarint()
		if length == 0 {
			return nil
		}
		if err := a.loadSeries(&r, r.bytes(length-1)); err != nil {
			return err
		}
	}
}

// loadSeries reads one.
func (a *Aggregator) loadSeries(r *reader, name []byte) error {
	s := a.newSeries(name, kind(r.bytes(1)[0]), a.table.hash(name))
	s.seq = r.varint()
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
