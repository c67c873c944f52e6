package admin

import (
	"fmt"
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
	BadLines bool     // there is a page of them
	Columns  []string // the protocols; of several destinations, each
	Books    []bookRow
	Rates    []rateRow

	columns []proxy.Books
	now     time.Time
}

// A rateRow is what came of a protocol lately.
type rateRow struct {
	Protocol string
	Rate
}

// A bookRow is one line of the books: one number a column.
type bookRow struct {
	Title  string
	Counts []uint64 // in the order of view.Columns
	Drop   bool     // it counts drops of one reason
}

var meanings = map[membership.State]string{
	membership.Claiming:  "asking etcd for a name",
	membership.Waiting:   "every name is taken; this host takes the next that is freed",
	membership.Held:      "this host writes under the name",
	membership.Suspended: "etcd has not confirmed the name in time; nothing is sent or named under it",
	membership.Released:  "stopping",
}

func newView(src Source, badLines bool, now time.Time) view {
	s := src.status()
	protocols := s.protocols()
	s.Bounds = slices.DeleteFunc(s.Bounds, func(b proxy.Bound) bool {
		return b.Queue+b.Spool == 0 && !slices.Contains(protocols, b.Protocol)
	})
	v := view{Status: s, Title: "no name", Meaning: meanings[s.State], Since: src.since(s, now), BadLines: badLines, now: now}
	if s.Name != nil {
		v.Title = *s.Name
	}
	rates := map[string]Rate{}
	for _, protocol := range protocols {
		rates[protocol] = src.Rates.of(protocol, s.Lines[protocol], now)
		v.Rates = append(v.Rates, rateRow{protocol, rates[protocol]})
	}
	v.Wrong = src.wrongs(s, rates, now)
	v.addColumn("statsd", s.Lines["statsd"])
	if len(s.Destinations) < 2 {
		v.addColumn("carbon", s.Lines["carbon"])
	} else {
		for _, d := range s.Destinations {
			v.addColumn("carbon "+d.Name, d.Lines)
		}
	}
	v.addRow("received", func(b proxy.Books) uint64 { return b.Received })
	v.addRow("adopted", func(b proxy.Books) uint64 { return b.Adopted })
	v.addRow("forwarded", func(b proxy.Books) uint64 { return b.Forwarded })
	v.addRow("resent", func(b proxy.Books) uint64 { return b.Resent })
	v.addRow("queued", func(b proxy.Books) uint64 { return b.Queued })
	v.addRow("spooled", func(b proxy.Books) uint64 { return b.Spooled })
	v.addDrops()
	return v
}

func (v *view) addColumn(title string, books proxy.Books) {
	v.Columns, v.columns = append(v.Columns, title), append(v.columns, books)
}

func (v *view) addRow(title string, count func(proxy.Books) uint64) {
	row := bookRow{Title: title}
	for _, books := range v.columns {
		row.Counts = append(row.Counts, count(books))
	}
	v.Books = append(v.Books, row)
}

// addDrops adds a row for each reason for which a line was dropped.
func (v *view) addDrops() {
	var reasons []string
	for _, books := range v.columns {
		for reason, n := range books.Dropped {
			if n > 0 {
				reasons = append(reasons, reason)
			}
		}
	}
	slices.Sort(reasons)
	for _, reason := range slices.Compact(reasons) {
		v.addRow(reason, func(b proxy.Books) uint64 { return b.Dropped[reason] })
		v.Books[len(v.Books)-1].Drop = true
	}
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

// Line returns the points of the last hour's line, in a picture of 60 by 20.
func (r rateRow) Line() string {
	var b strings.Builder
	for i, value := range r.Hour {
		y := 19.0
		if r.HourMost > 0 {
			y = 19 - 18*value/r.HourMost
		}
		fmt.Fprintf(&b, "%d,%.1f ", 60-len(r.Hour)+i, y)
	}
	return strings.TrimSpace(b.String())
}
