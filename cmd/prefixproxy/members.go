package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/fleet"
	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type membersCmd struct {
	configFlag
	JSON  bool `name:"json" help:"Print JSON."`
	Watch bool `help:"Check every 2 s, and print again when something has changed; until Ctrl-C."`
}

// Help is shown by members --help.
func (membersCmd) Help() string {
	return `Asks etcd which names of the pool are held now, and prints them in the order of the list. Names that are not (or no longer) in the list come last.

STATE is "held"; "suspended" if the lease was not renewed for so long that its host has stopped using the name; or "-" if the name has no lease. RENEWED is when the lease was last renewed. Hosts that wait for a name follow, and then a summary with the most names that were held at once in the last 7 days.`
}

// etcdPatience is how long a command waits for etcd.
var etcdPatience = 5 * time.Second

// members is the output of the command.
type members struct {
	Pool     string         `json:"pool"`
	Members  []member       `json:"members"`
	Waiting  []waiter       `json:"waiting"`
	Free     int            `json:"free"`      // names of the list that nobody holds
	MostHeld map[string]int `json:"most_held"` // at once, in the last days; empty if that is not known
}

// member is a name that is held.
type member struct {
	Name    string     `json:"name"`
	Owner   string     `json:"owner"`
	Since   *time.Time `json:"since"` // when it was claimed; null if that is not on record
	State   string     `json:"state"` // held or suspended; "" if it has no lease
	Listed  bool       `json:"listed"`
	renewed time.Duration
}

// waiter is a host that has found no free name.
type waiter struct {
	Owner string     `json:"owner"`
	Since *time.Time `json:"since"`
}

const (
	mostHeldLabel = "7d" // fleet.Kept
	watchEvery    = 2 * time.Second
	maxOthers     = 20_000 // names that are not in the list
)

// Run prints the members of the pool.
func (c *membersCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	client, err := cfg.Etcd.Client()
	if err != nil {
		return err
	}
	defer client.Close()
	known := fleet.New(cfg.Membership.Names, maxOthers, func(ctx context.Context, asks []pool.AskPast) (pool.Glance, error) {
		return pool.Look(ctx, client, cfg.Membership.Pool, asks...)
	})
	ms, err := readMembers(ctx, cfg, client, known)
	for last := ""; ; ms, err = readMembers(ctx, cfg, client, known) {
		text, _ := json.Marshal(ms)
		now := string(text) // without RENEWED, which always changes
		switch {
		case err != nil && last == "":
			return err
		case err != nil && ctx.Err() == nil:
			if now = err.Error(); now != last {
				ui.notef("%v", err)
			}
		case now != last:
			if c.Watch && !c.JSON {
				fmt.Fprintln(ui.out, time.Now().Format(time.TimeOnly))
			}
			if err := ms.write(ui.out, c.JSON); err != nil {
				return err
			}
		}
		if last = now; !c.Watch || !retry.Sleep(ctx, watchEvery) {
			return nil
		}
	}
}

// readMembers asks etcd; known is what it has answered before.
func readMembers(ctx context.Context, cfg config.Config, client *etcd.Client, known *fleet.Pool) (members, error) {
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	view := known.Refresh(ctx)
	var held []fleet.Row
	var leases []clientv3.LeaseID
	for _, row := range view.Rows {
		if row.Held {
			held, leases = append(held, row), append(leases, row.Lease)
		}
	}
	err := view.Err
	var states []pool.LeaseState
	if err == nil {
		states, err = pool.Leases(ctx, client, leases)
	}
	if err != nil {
		return members{}, explain(ctx, cfg.Etcd, etcdPatience, err)
	}
	ms := members{
		Pool: cfg.Membership.Pool, Members: make([]member, len(held)), Waiting: make([]waiter, len(view.Waiting)),
		Free: view.Free, MostHeld: make(map[string]int),
	}
	if !view.Begun.IsZero() && view.At.Sub(view.Begun) >= fleet.Kept {
		ms.MostHeld[mostHeldLabel] = view.MostHeld
	}
	for i, row := range held {
		ms.Members[i] = member{Name: row.Name, Owner: row.Owner, Since: jsonTime(row.Since), State: states[i].State, Listed: row.Listed, renewed: states[i].Renewed}
	}
	for i, w := range view.Waiting {
		ms.Waiting[i] = waiter{Owner: w.Owner, Since: jsonTime(w.Since)}
	}
	return ms, nil
}

// ask asks etcd about a name or an owner, and gives up after patience.
func ask[T any](ctx context.Context, cfg config.Config, patience time.Duration, question func(ctx context.Context, client *etcd.Client, pool, about string) (T, error), about string) (answer T, err error) {
	if about == "" {
		return answer, usageError(errors.New("the name or owner is empty"), "prefixproxy members shows names and owners")
	}
	client, err := cfg.Etcd.Client()
	if err != nil {
		return answer, err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if answer, err = question(ctx, client, cfg.Membership.Pool, about); err != nil {
		err = explain(ctx, cfg.Etcd, patience, err)
	}
	return answer, err
}

// explain turns err, which a call to etcd under ctx returned, into one for people; patience is how
// long the call was given.
func explain(ctx context.Context, c config.Etcd, patience time.Duration, err error) error {
	at, hint := strings.Join(c.Endpoints, ","), c.Etcdctl()+" endpoint health"
	if trouble, known := errors.AsType[*etcd.Trouble](err); known {
		at, hint = cmp.Or(trouble.Endpoint, at), cmp.Or(trouble.Hint, hint)
		err = fmt.Errorf("%s: %w", trouble.What, trouble.Err)
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		at = fmt.Sprintf("%s not reached within %v", at, patience)
	}
	return hinted(fmt.Errorf("etcd at %s: %w", at, err), hint)
}

func (ms members) write(w io.Writer, asJSON bool) error {
	if asJSON {
		return writeJSON(w, ms)
	}
	if err := writeTable(w, ms.rows()); err != nil {
		return err
	}
	_, err := fmt.Fprintln(w, ms.summary())
	return err
}

// summary is the line below the table.
func (ms members) summary() string {
	unlisted := 0
	for _, m := range ms.Members {
		if !m.Listed {
			unlisted++
		}
	}
	held, most := fmt.Sprintf("%d held", len(ms.Members)), ""
	if unlisted > 0 {
		held += fmt.Sprintf(" (%d not in the list)", unlisted)
	}
	if n, known := ms.MostHeld[mostHeldLabel]; known {
		most = fmt.Sprintf("; at most %d", n)
		if list := ms.Free + len(ms.Members) - unlisted; n > list {
			most += fmt.Sprintf(" (the list has %d)", list)
		}
		most += " held at once in the last " + mostHeldLabel
	}
	return fmt.Sprintf("%s, %d free, %d waiting in pool %s%s", held, ms.Free, len(ms.Waiting), ms.Pool, most)
}

func (ms members) rows() [][]string {
	rows := [][]string{{"NAME", "OWNER", "SINCE", "STATE", "RENEWED"}}
	for _, m := range ms.Members {
		state, renewed := "-", "-"
		if m.State != "" {
			state, renewed = m.State, m.renewed.String()+" ago"
		}
		if !m.Listed {
			state += ", not in the list"
		}
		rows = append(rows, []string{m.Name, m.Owner, tableTime(m.Since), state, renewed})
	}
	for _, h := range ms.Waiting {
		rows = append(rows, []string{"-", h.Owner, tableTime(h.Since), "waiting", "-"})
	}
	return rows
}
