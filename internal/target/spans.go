// Package target makes a Graphite target that follows a host through its names: the series of all
// the names that it held, each cut to its tenures, as one.
//
//	spans.go  which name was a host's when
//	expr.go   the expression, and what becomes of the paths in it
//
// Not promised: that a Graphite takes the expression. It is one, by graphite-web's grammar.
package target

import (
	"math"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A Span is the seconds, both included, in which a name was one host's.
type Span struct {
	Name     string
	From, To int64 // in Unix seconds; To is the highest int64 where the name is held still
}

// SpansOf returns which name was owner's in which seconds, in the order of time, by all tenures of
// the names that it held (pool.TenuresAround). By the rule of Carbon lines
// (membership.Claim.NameAt), the second in which a name changes hands is its former holder's, and
// the seconds in which it was free are its next one's. Spans of one name with nobody between them
// are one.
//
// A tenure that a crash left without an end ends when the owner has the next name, and
// before now: nobody has its name by then.
func SpansOf(owner string, tenures []pool.Tenure, now time.Time) []Span {
	var spans []Span
	own := slices.DeleteFunc(slices.Clone(tenures), func(t pool.Tenure) bool { return t.Owner != owner || t.From.IsZero() })
	slices.SortStableFunc(own, func(a, b pool.Tenure) int { return a.From.Compare(b.From) })
	before := int64(math.MinInt64) // the last second of the tenures before
	for i, t := range own {
		s := Span{t.Name, pool.FirstSecond(t.From), math.MaxInt64}
		switch {
		case t.Lasts:
		case !t.To.IsZero():
			s.To = t.To.Unix()
		case i+1 < len(own):
			s.To = pool.FirstSecond(own[i+1].From) - 1
		default:
			s.To = now.Unix()
		}
		free := before
		for _, o := range tenures {
			switch {
			case o.Owner == owner || o.Name != t.Name || o.From.IsZero():
			case o.From.After(t.From):
				s.To = min(s.To, pool.FirstSecond(o.From)-1)
			case !o.To.IsZero():
				free = max(free, o.To.Add(pool.ClocksApart).Unix())
			}
		}
		if free == math.MinInt64 {
			free = t.From.Unix() - 1 // nobody is known to have had it before
		}
		s.From = min(s.From, free+1)
		before = max(before, min(s.To, now.Unix()))
		i := len(spans) - 1
		switch {
		case s.To < s.From:
		case i >= 0 && spans[i].Name == s.Name && s.From <= spans[i].To+1:
			spans[i].To = max(spans[i].To, s.To)
		default:
			spans = append(spans, s)
		}
	}
	return spans
}

// InSteps returns the steps, by their first seconds, in which a name was one host's, of spans
// that reach into from..until, none later than that. A step in which it changes hands is its
// former holder's, as a second is, for that is what hosts do that count StatsD themselves.
func InSteps(spans []Span, from, until, step int64) (in []Span) {
	for _, s := range spans {
		if s.To < from || s.From > until {
			continue
		}
		s.From = (s.From + step - 1) / step * step
		if s.To = min(s.To, until); s.To != math.MaxInt64 {
			s.To = s.To / step * step
		}
		if s.From <= s.To {
			in = append(in, s)
		}
	}
	return in
}
