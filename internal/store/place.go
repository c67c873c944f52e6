package store

import (
	"slices"
	"sort"
)

// A place is a border between two records of a log. A log is counted through, in
// bytes and in lines, from its beginning to its end: segments come and go, and
// places stay.
type place struct {
	at   uint64 // bytes of records before it
	line uint64 // lines before it
}

// A span is what lies between two places.
type span struct{ from, to place }

func (s span) lines() int    { return int(s.to.line - s.from.line) }
func (s span) bytes() int64  { return int64(s.to.at - s.from.at) }
func (s span) isEmpty() bool { return s.from.at >= s.to.at }

// within returns the part of s that lies in o.
func (s span) within(o span) span {
	if s.from.at < o.from.at {
		s.from = o.from
	}
	if s.to.at > o.to.at {
		s.to = o.to
	}
	return s
}

// holds says whether all of o lies in s.
func (s span) holds(o span) bool { return s.from.at <= o.from.at && o.to.at <= s.to.at }

// minus returns what of s lies before and behind o. Either may be empty.
func (s span) minus(o span) (before, behind span) {
	before, behind = s, s
	if before.to.at > o.from.at {
		before.to = o.from
	}
	if behind.from.at < o.to.at {
		behind.from = o.to
	}
	return before, behind
}

// spans are apart from each other, in order.
type spans []span

func (ss spans) lines() (n int) {
	for _, s := range ss {
		n += s.lines()
	}
	return n
}

// from returns the index of the first that ends behind at.
func (ss spans) index(at uint64) int {
	return sort.Search(len(ss), func(i int) bool { return ss[i].to.at > at })
}

// add adds what is not in the set.
func (ss *spans) add(s span) {
	if s.isEmpty() {
		return
	}
	if last := len(*ss) - 1; last >= 0 && (*ss)[last].to.at == s.from.at {
		(*ss)[last].to = s.to // as it is nearly always
		return
	}
	i := ss.index(s.from.at)
	if i > 0 && (*ss)[i-1].to.at == s.from.at {
		i--
		s.from = (*ss)[i].from
		*ss = slices.Delete(*ss, i, i+1)
	}
	if i < len(*ss) && (*ss)[i].from.at == s.to.at {
		(*ss)[i].from = s.from
		return
	}
	*ss = slices.Insert(*ss, i, s)
}

// remove takes away what is in s, and returns how much that was.
func (ss *spans) remove(s span) (lines int, bytes int64) {
	for i := ss.index(s.from.at); i < len(*ss) && (*ss)[i].from.at < s.to.at; {
		part := (*ss)[i].within(s)
		lines += part.lines()
		bytes += part.bytes()
		before, behind := (*ss)[i].minus(s)
		switch {
		case before.isEmpty() && behind.isEmpty():
			*ss = slices.Delete(*ss, i, i+1)
		case behind.isEmpty():
			(*ss)[i] = before
			i++
		case before.isEmpty():
			(*ss)[i] = behind
			i++
		default:
			(*ss)[i] = before
			*ss = slices.Insert(*ss, i+1, behind)
			i += 2
		}
	}
	return lines, bytes
}

// touches says whether anything of s is in the set.
func (ss spans) touches(s span) bool {
	i := ss.index(s.from.at)
	return i < len(ss) && ss[i].from.at < s.to.at
}

// holds says whether all of s is in the set.
func (ss spans) holds(s span) bool {
	i := ss.index(s.from.at)
	return i < len(ss) && ss[i].holds(s)
}

// before returns how much of the set lies before p.
func (ss spans) before(p place) (lines int, bytes int64) {
	for _, s := range ss {
		if s = s.within(span{to: p}); s.isEmpty() {
			break
		}
		lines += s.lines()
		bytes += s.bytes()
	}
	return lines, bytes
}

// first returns the first span; an empty one where there is none.
func (ss spans) first() span {
	if len(ss) == 0 {
		return span{}
	}
	return ss[0]
}
