package main

import (
	"context"

	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type historyCmd struct {
	Owner string `arg:"" help:"The host, as members shows it (membership.owner)."`
	configFlag
	JSON bool `name:"json" help:"Print JSON."`
}

// Help is shown by history --help.
func (historyCmd) Help() string {
	return `The latest first. who --help explains the columns.`
}

// Run prints which names the owner held.
func (c *historyCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	past, err := ask(ctx, cfg, etcdPatience, pool.TenuresBy, c.Owner)
	if err != nil {
		return err
	}
	if len(past) == 0 {
		ui.notef("%q held no name of pool %s, as far as is recorded; who held a name: prefixproxy who NAME", c.Owner, cfg.Membership.Pool)
	}
	return writeTenures(ui.out, past, c.JSON)
}
