package main

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// tenure is what who and history print of one; what is absent is null.
type tenure struct {
	Name  string     `json:"name"`
	Owner string     `json:"owner"`
	From  *time.Time `json:"from"`
	To    *time.Time `json:"to"`    // null while it lasts, and where a crash left no end
	Ended *string    `json:"ended"` // why
}

// writeTenures prints ts as JSON or as a table. Of one without an end that does not last, a
// crash left none, and nobody has claimed the name since.
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
	return table{rows: rows, owner: 1}.write(w)
}

// likeOwner asks whether the holder of a name was meant that has another case, or another
// domain; "" where there is none.
func likeOwner(ctx context.Context, cfg config, owner string) string {
	host, _, _ := strings.Cut(owner, ".")
	glance, _ := ask(ctx, cfg, etcdPatience, func(ctx context.Context, client *etcd.Client, in, _ string) (pool.Glance, error) {
		return pool.LookAt(ctx, client, in, cfg.Membership.Names, nil)
	}, "")
	for _, h := range slices.Backward(glance.Held) {
		if short, _, _ := strings.Cut(h.Owner, "."); h.Owner != owner && strings.EqualFold(short, host) {
			return "; did you mean " + h.Owner + "?"
		}
	}
	return ""
}

func writeJSON(w io.Writer, v any) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	return out.Encode(v)
}

// jsonTime returns t in UTC, nil when it is zero.
func jsonTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// tableTime returns t as a person reads it, on the local clock and in a form
// that --at takes.
func tableTime(t *time.Time) string {
	if t == nil {
		return "-"
	}
	return t.Local().Format(time.RFC3339)
}
