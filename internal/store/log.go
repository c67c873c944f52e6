package store

import (
	"os"
	"path/filepath"
	"slices"
	"sort"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
)

// A segment is a file, a part of a log.
type segment struct {
	records.Header
	end records.Place // behind its last record

	entry
	tier     tier
	sealed   bool // no more is appended
	moving   bool // it is being copied, and stays
	failures int  // to read it
}

// An entry is where a file is.
type entry struct {
	file *os.File      // nil: not begun by this process, or moved; it is opened when it is read
	dir  *statedir.Dir // nil: it has no name, and ends with the process
	name string
}

// path shows people where the file is.
func (e entry) path() string {
	if e.dir == nil {
		return "memory"
	}
	return filepath.Join(e.dir.Path(), e.name)
}

// read lets do read the file.
func (e entry) read(do func(f *os.File) error) error {
	if e.file != nil {
		return do(e.file)
	}
	f, err := e.dir.OpenFile(e.name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(f)
}

func (g *segment) span() records.Span { return records.Between(g.Base, g.end) }

// size returns the bytes of the file.
func (g *segment) size() int64 { return records.HeaderSize + g.span().Bytes() }

// A log is a sequence of segments: those on disk, then those in memory. Lines are appended to
// the last.
type log struct {
	kind     records.Kind
	segments []*segment
	tail     records.Place // where the next record begins
	marks    []mark        // of the last seconds
}

// A mark says that everything after a place arrived at a certain time or later.
type mark struct {
	when time.Time
	at   records.Place
}

const (
	markEvery = 100 * time.Millisecond
	maxMarks  = 150 // a name is waited for for 10 s
)

// mark notes when the next record arrives.
func (l *log) mark(now time.Time) {
	for i := len(l.marks) - 1; i >= 0 && l.marks[i].when.After(now); i-- {
		l.marks[i].when = now // the clock was set back
	}
	if last := len(l.marks) - 1; last >= 0 && now.Sub(l.marks[last].when) < markEvery {
		return
	}
	l.marks = append(l.marks[max(0, len(l.marks)-maxMarks):], mark{now, l.tail})
}

// since returns a place after which everything arrived at when or later.
func (l *log) since(when time.Time) records.Place {
	i, _ := slices.BinarySearchFunc(l.marks, when, func(m mark, t time.Time) int { return m.when.Compare(t) })
	if i == len(l.marks) {
		return l.tail
	}
	return l.marks[i].at
}

// tier returns the segments of one tier.
func (l *log) tier(t tier) []*segment {
	border := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].tier == inMemory })
	return [...][]*segment{inMemory: l.segments[border:], onDisk: l.segments[:border]}[t]
}

// start returns where some segments of the log begin; without segments, the log's tail.
func (l *log) start(of []*segment) records.Place {
	if len(of) == 0 {
		return l.tail
	}
	return of[0].Base
}

// border returns where the second tier ends and the first begins.
func (l *log) border() records.Place { return l.start(l.tier(inMemory)) }

// in returns what lies in a tier.
func (l *log) in(t tier) records.Span {
	border := l.border()
	return [...]records.Span{inMemory: records.Between(border, l.tail), onDisk: {To: border}}[t]
}

// at returns the segment that holds the record at p, or nil.
func (l *log) at(p records.Place) *segment {
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].end.At > p.At })
	if i < len(l.segments) && l.segments[i].Base.At <= p.At {
		return l.segments[i]
	}
	return nil
}

// last returns the last segment, or nil.
func (l *log) last() *segment {
	if len(l.segments) == 0 {
		return nil
	}
	return l.segments[len(l.segments)-1]
}

// closeFiles closes those that take no more lines: they are opened again when they are read. It returns
// whether there were any.
func (l *log) closeFiles() (any bool) {
	for _, g := range l.segments[:max(0, len(l.segments)-1)] {
		if g.dir != nil && g.file != nil && !g.moving {
			g.file.Close()
			g.file, any = nil, true
		}
	}
	return any
}
