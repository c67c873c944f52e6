package main

import (
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// tenure is what who and history print of one; what is absent is null.
type tenure struct {
	Name  string     `json:"name"`
	Owner string     `json:"owner"`
	From  *time.Time `json:"from"`
	To    *time.Time `json:"to"`    // null while it lasts, and where a crash left no end
	Ended *string    `json:"ended"` // why
	lasts bool
}

func tenuresOf(ts []membership.Tenure) []tenure {
	out := make([]tenure, len(ts))
	for i, t := range ts {
		out[i] = tenure{Name: t.Name, Owner: t.Owner, From: jsonTime(t.From), To: jsonTime(t.To), lasts: t.Lasts}
		if t.Ended != "" {
			out[i].Ended = &t.Ended
		}
		if t.To.IsZero() && !t.Lasts { // a crash left no end, and nobody has claimed the name since
			out[i].Ended = &crashed
		}
	}
	return out
}

// crashed is why a tenure ended whose end nobody knows.
var crashed = string(membership.Expired)

// writeTenures prints ts as JSON or as a table.
func writeTenures(w io.Writer, ts []tenure, asJSON bool) error {
	if asJSON {
		return writeJSON(w, ts)
	}
	if len(ts) == 0 {
		return nil
	}
	rows := [][]string{{"NAME", "OWNER", "FROM", "TO", "ENDED"}}
	for _, t := range ts {
		to, ended := tableTime(t.To), "-"
		if t.To == nil && !t.lasts {
			to = "?" // a crash left no end, and nobody has claimed the name since
		}
		if t.Ended != nil && to != "?" {
			ended = *t.Ended
		}
		rows = append(rows, []string{t.Name, t.Owner, tableTime(t.From), to, ended})
	}
	return table{rows: rows, owner: 1}.write(w)
}

// likeOwner asks whether the holder of a name was meant that has another case, or another
// domain; "" where there is none.
func likeOwner(ctx context.Context, cfg config, owner string) string {
	question := ""
	host, _, _ := strings.Cut(owner, ".")
	cfg.Etcd.ask(ctx, func(ctx context.Context, client *etcd.Client) error {
		pool, err := membership.LookAt(ctx, client, cfg.Membership.Pool, cfg.Membership.Names, nil)
		for _, h := range pool.Held {
			if short, _, _ := strings.Cut(h.Owner, "."); h.Owner != owner && strings.EqualFold(short, host) {
				question = "; did you mean " + h.Owner + "?"
			}
		}
		return err
	})
	return question
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
