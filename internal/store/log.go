package store

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
)

// A log is a row of segments: those on disk, then those in memory, to the last of
// which is appended. The store's mutex guards it.
type log struct {
	kind     records.Kind
	segments []*segment
	tail     records.Place // where the next record begins
	marks    []mark        // of the last seconds
}

// A mark says that all behind a place came at a time or later.
type mark struct {
	when time.Time
	at   records.Place
}

const (
	markEvery = 100 * time.Millisecond
	maxMarks  = 150 // a name is waited for for 10 s
)

// mark takes note of when the next record comes.
func (l *log) mark(now time.Time) {
	if last := len(l.marks) - 1; last >= 0 && now.Sub(l.marks[last].when) < markEvery {
		return
	}
	if len(l.marks) == maxMarks {
		l.marks = slices.Delete(l.marks, 0, maxMarks/2)
	}
	l.marks = append(l.marks, mark{now, l.tail})
}

// since returns a place behind which all has come at when or later.
func (l *log) since(when time.Time) records.Place {
	i, _ := slices.BinarySearchFunc(l.marks, when, func(m mark, t time.Time) int { return m.when.Compare(t) })
	if i == len(l.marks) {
		return l.tail
	}
	return l.marks[i].at
}

// border returns where the second tier ends and the first begins.
func (l *log) border() records.Place {
	if g := l.oldest(); g != nil {
		return g.Base
	}
	return l.tail
}

// start returns where the oldest record begins.
func (l *log) start() records.Place {
	if len(l.segments) > 0 {
		return l.segments[0].Base
	}
	return l.tail
}

// disk is what lies in the second tier, and memory what does in the first.
func (l *log) disk() records.Span   { return records.Span{To: l.border()} }
func (l *log) memory() records.Span { return records.Between(l.border(), l.tail) }

// oldest returns the oldest segment in memory, or nil.
func (l *log) oldest() *segment {
	i := l.onDisk()
	if i == len(l.segments) {
		return nil
	}
	return l.segments[i]
}

// onDisk returns how many segments are on disk.
func (l *log) onDisk() int {
	i, _ := slices.BinarySearchFunc(l.segments, true, func(g *segment, _ bool) int {
		if g.onDisk {
			return -1
		}
		return 0
	})
	return i
}

// at returns the segment that holds the record at p, or nil.
func (l *log) at(p records.Place) *segment {
	i, found := slices.BinarySearchFunc(l.segments, p, func(g *segment, p records.Place) int { return cmp.Compare(g.Base.At, p.At) })
	if !found {
		i--
	}
	if i < 0 || p.At >= l.segments[i].end.At {
		return nil
	}
	return l.segments[i]
}

// open returns the segment that is appended to, or nil.
func (l *log) open() *segment {
	if n := len(l.segments); n > 0 && !l.segments[n-1].sealed {
		return l.segments[n-1]
	}
	return nil
}

// remove takes g out of the log.
func (l *log) remove(g *segment) {
	if i := slices.Index(l.segments, g); i >= 0 {
		l.segments = slices.Delete(l.segments, i, i+1)
	}
}

// append writes a record behind the log's last, and returns where it is. s.mu is
// held.
func (s *Store) append(l *log, lines []byte, n int, born time.Time) (records.Span, error) {
	size := int64(records.RecordHeader + len(lines))
	for {
		g, err := s.room(l, size, born)
		if err != nil {
			return records.Span{}, err
		}
		g.PutRecord(s.head[:], l.tail, lines, n, born)
		if err = s.files.write(g.file, s.head[:], lines, g.Offset(l.tail)); err == nil {
			sp := records.Between(l.tail, records.Place{At: l.tail.At + uint64(size), Line: l.tail.Line + uint64(n)})
			l.tail, g.end = sp.To, sp.To
			s.memoryUsed += size
			return sp, nil
		}
		g.sealed = true // what is behind its end is no record
		if g.Base == g.end {
			l.remove(g)
			s.memoryUsed -= g.size()
			s.discard(g)
		}
		if g.dir == nil {
			return records.Span{}, err
		}
		s.unkept(err)
	}
}

// room returns a segment that takes so many more bytes. s.mu is held.
func (s *Store) room(l *log, size int64, born time.Time) (*segment, error) {
	if g := l.open(); g != nil {
		if g.size()+size <= s.segmentSize || g.Base == g.end {
			return g, nil
		}
		g.sealed = true
	}
	g := &segment{Header: records.Header{ID: s.id, Kind: l.kind, Base: l.tail, Born: born}, end: l.tail}
	if err := s.begin(g); err != nil {
		return nil, fmt.Errorf("begin a segment: %w", err)
	}
	l.segments = append(l.segments, g)
	s.memoryUsed += records.HeaderSize
	return g, nil
}

// begin makes the file of a new segment: an old one, a new one, or if that fails
// one without a name. s.mu is held.
func (s *Store) begin(g *segment) (err error) {
	if last := len(s.spare) - 1; last >= 0 {
		g.file, g.dir, g.name = s.spare[last].file, s.spare[last].dir, s.spare[last].name
		s.spare = s.spare[:last]
	} else if s.memory != nil {
		name := segmentName(g.Kind, g.Base.At)
		if g.file, err = s.files.create(s.memory.Dir, name); err == nil {
			g.dir, g.name = s.memory.Dir, name
		}
	}
	header := g.Append(s.segmentHead[:0])
	if g.file != nil {
		if err = s.files.write(g.file, header, nil, 0); err == nil {
			return nil
		}
		s.discard(g)
	}
	if err != nil {
		s.unkept(err)
	}
	g.dir = nil
	if g.file, err = nameless(); err != nil {
		return err
	}
	return s.files.write(g.file, header, nil, 0)
}

// maySpare says whether another file in memory may be kept for the next segments: to
// write over what is there costs less than memory that is new. s.mu is held.
func (s *Store) maySpare() bool {
	return len(s.spare) < 2 || int64(len(s.spare)+1)*s.segmentSize <= s.memoryLimit/8
}

// free ends the use of a segment, which is out of its log. s.mu is held.
func (s *Store) free(g *segment) {
	g.gone = true
	if g.onDisk {
		s.diskUsed -= g.size()
		s.trash = append(s.trash, g)
		notify(s.work)
		return
	}
	s.memoryUsed -= g.size()
	if (g.dir != nil || s.memory == nil) && s.maySpare() && g.Base != g.end { // else the next one has its place
		s.spare = append(s.spare, g)
		return
	}
	s.discard(g)
}

// discard closes and removes the file of a segment in memory.
func (s *Store) discard(g *segment) {
	g.file.Close()
	if g.dir != nil {
		s.files.remove(g.dir, g.name)
	}
}

// sweep frees the segments that nobody needs any more. s.mu is held.
func (s *Store) sweep() {
	for _, l := range s.logs() {
		need := append(s.need[:0], make([]bool, len(l.segments))...)
		s.need = need
		hint := 0
		note := func(sp records.Span) {
			if hint < len(need) && need[hint] && l.segments[hint].span().Holds(sp) {
				return // as it is nearly always
			}
			i, found := slices.BinarySearchFunc(l.segments, sp.From, func(g *segment, p records.Place) int { return cmp.Compare(g.Base.At, p.At) })
			if !found && i > 0 {
				i--
			}
			for ; i < len(need) && l.segments[i].Base.At < sp.To.At; i++ {
				need[i] = need[i] || !sp.Within(l.segments[i].span()).IsEmpty()
				hint = i
			}
		}
		if l.kind == records.Held {
			s.held.needs(note)
		} else {
			for _, c := range s.cursors {
				for _, p := range c.parts {
					if !p.lost {
						note(p.Span)
					}
				}
			}
		}
		kept := l.segments[:0]
		for i, g := range l.segments {
			if need[i] || !g.sealed {
				kept = append(kept, g)
			} else {
				s.free(g)
			}
		}
		clear(l.segments[len(kept):])
		l.segments = kept
	}
}
