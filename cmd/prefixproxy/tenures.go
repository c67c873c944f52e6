package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// tenure is a tenure as who and history print it; what is not known is null.
type tenure struct {
	Name  string     `json:"name"`
	Owner string     `json:"owner"`
	From  *time.Time `json:"from"`
	To    *time.Time `json:"to"`    // null while it lasts, and if a crash left no end
	Ended *string    `json:"ended"` // why
}

// writeTenures prints ts as JSON or as a table. One that has no end and does not last was cut
// short by a crash, and nobody has claimed the name since.
func writeTenures(w io.Writer, ts []pool.Tenure, asJSON bool) error {
	out := make([]tenure, len(ts))
	rows := [][]string{{"NAME", "OWNER", "FROM", "TO", "ENDED"}}
	for i, t := range ts {
		from, to, ended := jsonTime(t.From), jsonTime(t.To), &t.Ended
		row := []string{t.Name, t.Owner, tableTime(from), tableTime(to), cmp.Or(t.Ended, "-")}
		switch {
		case to == nil && !t.Lasts:
			ended = new(string(membership.Expired))
			row[3], row[4] = "?", "-"
		case t.Ended == "":
			ended = nil
		}
		out[i] = tenure{t.Name, t.Owner, from, to, ended}
		rows = append(rows, row)
	}
	switch {
	case asJSON:
		return writeJSON(w, out)
	case len(ts) == 0:
		return nil
	}
	return writeTable(w, rows)
}

// writeTable writes rows of cells, the header first.
func writeTable(w io.Writer, rows [][]string) error {
	out := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(out, strings.Join(row, "\t"))
	}
	return out.Flush()
}

func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// jsonTime returns t in UTC, or nil if it is zero.
func jsonTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// tableTime returns t for a person: local, and in a form that --at accepts.
func tableTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format(time.RFC3339)
}
