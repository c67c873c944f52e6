package main

import (
	"context"

	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type historyCmd struct {
	Owner string `arg:"" help:"The host, as shown by members (membership.owner)."`
	configFlag
	JSON bool `name:"json" help:"Print JSON."`
}

// Help is shown by history --help.
func (historyCmd) Help() string {
	return `The most recent tenure comes first. "prefixproxy who --help" explains the columns.`
}

// Run prints which names the owner held.
func (c *historyCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	past, err := ask(ctx, cfg, etcdPatience, pool.TenuresBy, c.Owner)
	if err != nil {
		return err
	}
	if len(past) == 0 {
		ui.notef("no name of pool %[2]s is on record for %[1]q; for the holders of a name: prefixproxy who NAME", c.Owner, cfg.Membership.Pool)
	}
	return writeTenures(ui.out, past, c.JSON)
}
