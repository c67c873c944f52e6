package records

import (
	"iter"
	"slices"
	"sort"
)

// A Place is a border between two records of a log. A log is counted through, in
// bytes and in lines, from its beginning to its end: segments come and go, and
// places stay.
type Place struct {
	At   uint64 // bytes of records before it
	Line uint64 // lines before it
}

// MaxPlace is more than a log will ever have, of either.
const MaxPlace = 1 << 62

// IsSound says whether there can be such a place.
func (p Place) IsSound() bool { return p.At <= MaxPlace && p.Line <= p.At }

// End is behind all places.
var End = Place{MaxPlace, MaxPlace}

// A Span is what lies between two places.
type Span struct{ From, To Place }

// Between returns what lies between two places.
func Between(from, to Place) Span { return Span{from, to} }

// Lines returns how many are in the span.
func (s Span) Lines() int { return int(s.To.Line - s.From.Line) }

// Bytes returns how many records in the span have.
func (s Span) Bytes() int64 { return int64(s.To.At - s.From.At) }

// IsEmpty says whether nothing is in the span.
func (s Span) IsEmpty() bool { return s.From.At >= s.To.At }

// Within returns the part of s that lies in o.
func (s Span) Within(o Span) Span {
	if s.From.At < o.From.At {
		s.From = o.From
	}
	if s.To.At > o.To.At {
		s.To = o.To
	}
	return s
}

// Holds says whether all of o lies in s.
func (s Span) Holds(o Span) bool { return s.From.At <= o.From.At && o.To.At <= s.To.At }

// Spans are apart from each other, in order.
type Spans []Span

// index returns the index of the first that ends behind at.
func (ss Spans) index(at uint64) int {
	return sort.Search(len(ss), func(i int) bool { return ss[i].To.At > at })
}

// Add adds what is not in the set.
func (ss *Spans) Add(s Span) {
	if s.IsEmpty() {
		return
	}
	first := ss.index(s.From.At)
	last := first
	if first > 0 && (*ss)[first-1].To.At == s.From.At {
		first--
		s.From = (*ss)[first].From
	}
	if last < len(*ss) && (*ss)[last].From.At == s.To.At {
		s.To = (*ss)[last].To
		last++
	}
	*ss = slices.Replace(*ss, first, last, s)
}

// Remove takes away what is in s, and returns how many lines that were.
func (ss *Spans) Remove(s Span) (lines int) {
	first := ss.index(s.From.At)
	last := first
	var left [2]Span
	rest := left[:0]
	for part := range ss.Within(s) {
		lines += part.Lines()
		whole := (*ss)[last]
		for _, edge := range [...]Span{{whole.From, part.From}, {part.To, whole.To}} {
			if !edge.IsEmpty() {
				rest = append(rest, edge)
			}
		}
		last++
	}
	*ss = slices.Replace(*ss, first, last, rest...)
	return lines
}

// Copy adds what is in s to another set.
func (ss Spans) Copy(s Span, to *Spans) {
	for part := range ss.Within(s) {
		to.Add(part)
	}
}

// Move moves what is in s to another set, and returns how many lines that were.
func (ss *Spans) Move(s Span, to *Spans) (lines int) {
	ss.Copy(s, to)
	return ss.Remove(s)
}

// Within yields the parts of the set that lie in s.
func (ss Spans) Within(s Span) iter.Seq[Span] {
	return func(yield func(Span) bool) {
		for i := ss.index(s.From.At); i < len(ss) && ss[i].From.At < s.To.At && !s.IsEmpty(); i++ {
			if !yield(ss[i].Within(s)) {
				return
			}
		}
	}
}

// Touches says whether anything of s is in the set.
func (ss Spans) Touches(s Span) bool { return !ss.First(s).IsEmpty() }

// Holds says whether all of s is in the set.
func (ss Spans) Holds(s Span) bool {
	i := ss.index(s.From.At)
	return i < len(ss) && ss[i].Holds(s)
}

// Count returns how much of the set lies in s.
func (ss Spans) Count(s Span) (lines int, bytes int64) {
	for part := range ss.Within(s) {
		lines += part.Lines()
		bytes += part.Bytes()
	}
	return lines, bytes
}

// all is where every span lies.
var all = Span{To: End}

// Lines and Bytes return how many are in the set.
func (ss Spans) Lines() int {
	lines, _ := ss.Count(all)
	return lines
}

func (ss Spans) Bytes() int64 {
	_, bytes := ss.Count(all)
	return bytes
}

// First returns what of the set comes first in s; an empty span where there is nothing.
func (ss Spans) First(s Span) Span {
	if i := ss.index(s.From.At); i < len(ss) {
		return ss[i].Within(s)
	}
	return Span{}
}
