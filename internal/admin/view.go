package admin

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/proxy"
)

// A view is a Status arranged for the page.
type view struct {
	Status
	Title    string // the name, or "no name"
	Since    time.Time
	Issues   []issue
	BadLines bool // their page is on
	Rates    []rate
	Books    []bookColumn
	Reasons  []string // why lines were dropped

	now time.Time
}

// A bookColumn is the books of StatsD, or of a destination of Carbon.
type bookColumn struct {
	Title string
	proxy.Books
}

func (s *Server) newView(now time.Time) view {
	status := s.src.status()
	protocols := status.protocols()
	status.Bounds = slices.DeleteFunc(status.Bounds, func(b proxy.Bound) bool {
		return b.Queue+b.Spool == 0 && !slices.Contains(protocols, b.Protocol)
	})
	v := view{Status: status, Title: "no name", Since: s.rates.stateSince(status.State), BadLines: s.cfg.Load().BadLines, now: now}
	if status.Name != nil {
		v.Title = *status.Name
	}
	is := sample{now, status.Status}
	then := s.rates.first(is)
	for _, protocol := range protocols {
		v.Rates = append(v.Rates, rateOf(protocol, then, is))
	}
	v.Issues = s.issues(v, then)
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

// Ago returns a time and how long ago it was; "" if it is zero.
func (v view) Ago(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return fmt.Sprintf("since %s, %s", moment(t, v.now), age(v.now.Sub(t)))
}

// IsBad reports whether anything is wrong that costs lines, or may.
func (v view) IsBad() bool {
	return slices.ContainsFunc(v.Issues, func(i issue) bool { return !i.Mild })
}
