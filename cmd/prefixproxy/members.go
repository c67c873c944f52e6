package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership"
)

type membersCmd struct {
	configFlag
	JSON bool `name:"json" help:"Print JSON."`
}

// Help is shown by members --help.
func (membersCmd) Help() string {
	return `Asks etcd which names of the pool are held at this moment, and prints them in the order of the list.`
}

// etcdPatience is how long a command waits for etcd.
const etcdPatience = 5 * time.Second

// members is what the command prints.
type members struct {
	Pool    string   `json:"pool"`
	Members []member `json:"members"`
	Free    int      `json:"free"` // names that nobody holds
}

// member is a name that is held.
type member struct {
	Name  string     `json:"name"`
	Owner string     `json:"owner"`
	Since *time.Time `json:"since"` // when it was claimed; null if no record tells
}

// Run prints the members of the pool.
func (c *membersCmd) Run(ctx context.Context, ui *ui) error {
	cfg, err := loadConfig(c.Config, defaultConfig())
	if err != nil {
		return err
	}
	ms, err := readMembers(ctx, cfg)
	if err != nil {
		return err
	}
	if c.JSON {
		return ms.writeJSON(ui.out)
	}
	return ms.writeTable(ui.out)
}

// readMembers asks etcd.
func readMembers(ctx context.Context, cfg config) (members, error) {
	var held []membership.Held
	err := cfg.Etcd.ask(ctx, func(ctx context.Context, client *clientv3.Client) (err error) {
		held, err = membership.List(ctx, client, cfg.Membership.Pool, cfg.Membership.Names)
		return err
	})
	if err != nil {
		return members{}, err
	}
	ms := members{Pool: cfg.Membership.Pool, Members: make([]member, len(held)), Free: len(cfg.Membership.Names) - len(held)}
	for i, h := range held {
		ms.Members[i] = member{Name: h.Name, Owner: h.Owner, Since: jsonTime(h.Since)}
	}
	return ms, nil
}

// ask lets question ask etcd, for as long as a person waits.
func (c etcdConfig) ask(ctx context.Context, question func(context.Context, *clientv3.Client) error) error {
	client, err := c.client()
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, etcdPatience)
	defer cancel()
	if err := question(ctx, client); err != nil {
		return c.explain(ctx, err)
	}
	return nil
}

// explain makes err, which a call to etcd under ctx ended with, one for people.
func (c etcdConfig) explain(ctx context.Context, err error) error {
	endpoints := strings.Join(c.Endpoints, ",")
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		err = fmt.Errorf("etcd at %s not reached within %v: %w", endpoints, etcdPatience, err)
	} else {
		err = fmt.Errorf("etcd at %s: %w", endpoints, err)
	}
	return hinted{err, "ETCDCTL_API=3 etcdctl --endpoints=" + endpoints + " endpoint health"}
}

func (ms members) writeJSON(w io.Writer) error { return writeJSON(w, ms) }

func (ms members) writeTable(w io.Writer) error {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "NAME\tOWNER\tSINCE")
	for _, m := range ms.Members {
		fmt.Fprintf(table, "%s\t%s\t%s\n", m.Name, cmp.Or(m.Owner, "-"), tableTime(m.Since))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "%d held, %d free in pool %s\n", len(ms.Members), ms.Free, ms.Pool)
	return err
}
