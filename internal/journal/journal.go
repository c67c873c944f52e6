package journal

import (
	"bytes"
	"sync/atomic"
	"time"
	"unsafe"
)

// Sizes in bytes.
const (
	SegmentSize = 128 << 10
	headerSize  = 64
	Room        = SegmentSize - headerSize // of a segment, for lines
)

// A Kind says what the lines of a segment are.
type Kind uint64

// The kinds.
const (
	Named  Kind = iota + 1 // lines as they leave
	Raw                    // lines that wait for a name
	Copied                 // lines as they leave, which are kept elsewhere until they are done
)

// magic begins every segment that a process has used; its last byte is the
// version of the format.
const magic = 0x70_70_71_75_65_75_65_01

// header is the head of a segment, in mapped memory.
type header struct {
	magic  uint64
	seq    atomic.Uint64
	kind   Kind
	length atomic.Uint64
	done   atomic.Uint64
	born   int64
}

// A Segment holds lines. It belongs to whoever got it until it is put back.
type Segment struct {
	// Lines are what was appended. The bytes never change before the segment is
	// put back; more come behind them.
	Lines []byte

	header *header
	memory []byte // all of it
	offset int64  // in the file; -1: in none

	discarded bool // its memory was given back
}

func newSegment(memory []byte, offset int64) *Segment {
	s := &Segment{memory: memory, offset: offset, header: (*header)(unsafe.Pointer(&memory[0]))}
	s.Lines = memory[headerSize:headerSize:SegmentSize]
	return s
}

// begin makes s an empty segment in use.
func (s *Segment) begin(seq uint64, kind Kind, born time.Time) {
	s.Lines = s.Lines[:0]
	h := s.header
	h.magic, h.kind, h.born = magic, kind, born.UnixNano()
	h.length.Store(0)
	h.done.Store(0)
	h.seq.Store(seq)
}

// Kind returns what the lines are.
func (s *Segment) Kind() Kind { return s.header.kind }

// Born returns when the first line arrived.
func (s *Segment) Born() time.Time { return time.Unix(0, s.header.born) }

// Left returns how many more bytes fit.
func (s *Segment) Left() int { return cap(s.Lines) - len(s.Lines) }

// Append copies whole lines, which must fit, into the segment. From its return
// on, a successor finds them.
func (s *Segment) Append(lines []byte) {
	s.Lines = append(s.Lines, lines...)
	s.header.length.Store(uint64(len(s.Lines)))
}

// Slice returns the lines from one offset to another. Unlike Lines, it may be
// called while more is appended.
func (s *Segment) Slice(from, to int) []byte {
	return s.memory[headerSize+from : headerSize+to : headerSize+to]
}

// SetDone says that the first n bytes need no more delivery.
func (s *Segment) SetDone(n int) {
	if uint64(n) > s.header.done.Load() {
		s.header.done.Store(uint64(n))
	}
}

// Done returns how many bytes need no more delivery.
func (s *Segment) Done() int { return int(s.header.done.Load()) }

// recall finds the lines of a segment that a predecessor left. It says whether
// there are any, and sound ones.
func (s *Segment) recall() bool {
	h := s.header
	length, done := h.length.Load(), h.done.Load()
	if h.magic != magic || h.seq.Load() == 0 || h.kind < Named || h.kind > Copied || length == 0 || length > Room || done > length {
		return false
	}
	s.Lines = s.Lines[:length]
	return s.Lines[length-1] == '\n' && (done == 0 || s.Lines[done-1] == '\n')
}

// A Journal hands out segments. One goroutine at a time uses it; the lines of
// a segment may be read by others.
type Journal struct {
	file *file
	seq  uint64 // of the segment handed out last
	free []*Segment
}

// InMemory returns a journal without a file: what is in it dies with the
// process.
func InMemory() *Journal { return &Journal{} }

// Get returns an empty segment. An error says that it is not in the file, and
// why; it can be used all the same.
func (j *Journal) Get(kind Kind, born time.Time) (s *Segment, err error) {
	if last := len(j.free) - 1; last >= 0 {
		s = j.free[last]
		if err = s.reserve(j.file); err == nil {
			j.free = j.free[:last]
		}
	} else {
		s, err = j.more()
	}
	if err != nil {
		s = newSegment(anonymous(), -1)
	}
	j.seq++
	s.begin(j.seq, kind, born)
	return s, err
}

// more makes one more segment.
func (j *Journal) more() (*Segment, error) {
	if j.file == nil {
		return newSegment(anonymous(), -1), nil
	}
	return j.file.grow()
}

// Put takes back a segment. Its lines are gone.
func (j *Journal) Put(s *Segment) {
	s.header.seq.Store(0)
	if s.offset < 0 && j.file != nil {
		release(s.memory)
		return
	}
	j.free = append(j.free, s)
}

// Trim gives memory of segments that are not in use back to the system, but
// for keep of them.
func (j *Journal) Trim(keep int) {
	for _, s := range j.free[:max(0, len(j.free)-keep)] {
		s.discard(j.file)
	}
}

// CanTrim says whether Trim would give memory back.
func (j *Journal) CanTrim(keep int) bool {
	last := len(j.free) - 1 - keep // those before it were given back before it
	return last >= 0 && !j.free[last].discarded
}

// Path returns the file; "" where there is none.
func (j *Journal) Path() string {
	if j.file == nil {
		return ""
	}
	return j.file.name
}

// Close ends the use of the journal, whose segments must not be used any more.
// With remove the file goes, too; otherwise a successor adopts it.
func (j *Journal) Close(remove bool) error {
	if j.file == nil {
		return nil
	}
	return j.file.close(remove)
}

// CountLines returns the number of lines in b.
func CountLines(b []byte) int { return bytes.Count(b, []byte{'\n'}) }
