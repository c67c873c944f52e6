package membership

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// A history knows to whom the seconds before a tenure belong, and so which name a Carbon line
// gets, since that carries its own time. It never changes.
//
//	       floor                      start
//	─┬───────┬──────────┬───────┬───────┬──────────► seconds
//	 │ ours  │ another  │ (gap) │       │ the tenure
//	 └ the name that we had then        │
//	         └ no name: the other one has written here
//
// All seconds are whole, as Carbon's are. The second in which a name changes hands belongs to its
// former holder.
type history struct {
	floor  int64  // from here on, each second is the current name's
	ours   []span // our own earlier tenures, in the order of their starts: of two, the later one has the second
	others []span // those of others under the current name
}

// A span is seconds from..to, both included.
type span struct {
	from, to int64
	name     string // that was ours then; "" where it was another's
}

func (s span) has(t int64) bool { return s.from <= t && t <= s.to }

// newHistory returns the history of a tenure of name whose first second is start.
// ours may hold the tenure itself, which has no second before its start. others are the recorded tenures of other hosts under its name, in the order of
// time; cut says that there were more before them, which are not known.
//
// For this rule, a tenure that follows another one begins at that one's end: the seconds in which
// a name was free belong to its next holder.
func newHistory(start int64, name string, ours state.Tenures, others []pool.Tenure, cut bool) history {
	h := history{floor: math.MinInt64}
	for _, t := range ours {
		if s := (span{t.Start, min(t.End, start-1), t.Name}); s.from <= s.to {
			h.ours = append(h.ours, s)
			h.floor = max(h.floor, s.to+1)
		}
	}
	slices.SortFunc(h.ours, func(a, b span) int { return cmp.Compare(a.from, b.from) })

	if cut && len(others) > 0 {
		h.others = append(h.others, span{from: math.MinInt64, to: min(others[0].From.Unix(), start) - 1})
	}
	for i, t := range others {
		s := span{from: t.From.Unix(), to: start - 1}
		if end, ok := lastEnd(name, h.ours, others[:i], s.from); ok {
			s.from = min(s.from, end+1)
		}
		switch {
		case !t.Open():
			s.to = min(s.to, t.To.Add(pool.ClocksApart).Unix())
		case i+1 < len(others): // which may have waited for it, and then have gone
			ttl := cmp.Or(t.TTL, pool.MaxTTL)
			s.to = min(s.to, others[i+1].From.Add(ttl+margin(ttl)).Unix())
		}
		if s.from <= s.to {
			h.others = append(h.others, s)
		}
	}
	for _, s := range h.others {
		h.floor = max(h.floor, s.to+1)
	}
	return h
}

// margin is what a third of a TTL, by which a lease outlives its holder's
// horizon, leaves to be waited because of the hosts' clocks.
func margin(ttl time.Duration) time.Duration { return max(pool.ClocksApart-ttl/3, 0) }

// lastEnd returns the last second of those tenures of name that ended before
// another one began at from; ok is false if none did.
func lastEnd(name string, ours []span, others []pool.Tenure, from int64) (end int64, ok bool) {
	end = math.MinInt64
	for _, s := range ours {
		if s.name == name && s.from <= from {
			end = max(end, s.to)
		}
	}
	for _, t := range others {
		if !t.Open() {
			end = max(end, t.To.Unix())
		}
	}
	return end, end > math.MinInt64
}

// before is NameAt for a second before the floor; current is the name.
func (h history) before(t int64, current string) (name string, ok bool) {
	for _, s := range slices.Backward(h.ours) {
		if s.has(t) {
			return s.name, true
		}
	}
	if slices.ContainsFunc(h.others, func(s span) bool { return s.has(t) }) {
		return "", false
	}
	return current, true
}
