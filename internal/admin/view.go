package admin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A view is a Status arranged for the page.
type view struct {
	Status
	Title    string // the name, or what stands for it
	Meaning  string // of the state, for a newcomer
	Since    time.Time
	Wrong    []wrong
	BadLines bool // there is a page of them
	Rates    []rateRow
	Books    []bookColumn
	Reasons  []string // for which lines were dropped

	now time.Time
}

// A rateRow is what came of a protocol lately.
type rateRow struct {
	Protocol string
	rate
}

// A bookColumn is the books of a protocol; of several destinations, of each.
type bookColumn struct {
	Title string
	proxy.Books
}

var meanings = map[membership.State]string{
	membership.Claiming:  "asking etcd for a name",
	membership.Waiting:   "every name is taken; this host takes the next that is freed",
	membership.Held:      "this host writes under the name",
	membership.Suspended: "etcd has not confirmed the name in time; nothing is sent or named under it",
	membership.Released:  "stopping",
}

func (s *Server) newView(now time.Time) view {
	status := s.src.status()
	protocols := status.protocols()
	status.Bounds = slices.DeleteFunc(status.Bounds, func(b proxy.Bound) bool {
		return b.Queue+b.Spool == 0 && !slices.Contains(protocols, b.Protocol)
	})
	v := view{Status: status, Title: "no name", Meaning: meanings[status.State], Since: s.since(status, now), BadLines: s.cfg.Load().BadLines, now: now}
	if status.Name != nil {
		v.Title = *status.Name
	}
	for _, protocol := range protocols {
		v.Rates = append(v.Rates, rateRow{protocol, s.rates.of(protocol, status.Lines[protocol], now)})
	}
	v.Wrong = s.wrongs(v)
	v.Books = []bookColumn{{"statsd", status.Lines["statsd"]}}
	for _, d := range status.Destinations {
		v.Books = append(v.Books, bookColumn{strings.TrimSpace("carbon " + d.Name), d.Lines})
	}
	reasons := map[string]bool{}
	for _, column := range v.Books {
		for reason := range column.Dropped {
			reasons[reason] = true
		}
	}
	v.Reasons = slices.Sorted(maps.Keys(reasons))
	return v
}

// Ago returns a moment, and how long ago it was; "" for the zero one.
func (v view) Ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("since %s, %s", moment(t, v.now), age(v.now.Sub(t)))
}

// IsBad says whether something is wrong that costs lines, or may.
func (v view) IsBad() bool {
	return slices.ContainsFunc(v.Wrong, func(w wrong) bool { return !w.Mild })
}

// HasLine says whether there is something to draw.
func (r rateRow) HasLine() bool { return len(r.Hour) > 1 }

// isSpare says whether an address is not used because another one works.
func isSpare(u proxy.UpstreamStatus) bool { return !u.Up && u.Reason == outlet.Spare }

// HourMost is the most that came in a minute.
func (r rateRow) HourMost() float64 { return slices.Max(r.Hour) }

// Line returns the points of the last hour's line, in a picture of 60 by 20.
func (r rateRow) Line() string {
	var b strings.Builder
	for i, value := range r.Hour {
		fmt.Fprintf(&b, "%d,%.1f ", 60-len(r.Hour)+i, 19-18*value/max(r.HourMost(), 1e-9))
	}
	return strings.TrimSpace(b.String())
}
