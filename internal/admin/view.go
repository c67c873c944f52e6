package admin

import (
	"slices"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A view is a Status arranged for the page.
type view struct {
	Status
	Title    string   // the name, or what stands for it
	Meaning  string   // of the state, for a newcomer
	NotReady []string // why not; empty when ready
	BadLines bool     // there is a page of them
	Columns  []string // the protocols; of several destinations, each
	Books    []bookRow

	columns []proxy.Books
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

func newView(s Status, badLines bool) view {
	v := view{Status: s, Title: "no name", Meaning: meanings[s.State], NotReady: s.notReady(), BadLines: badLines}
	if s.Name != nil {
		v.Title = *s.Name
	}
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
