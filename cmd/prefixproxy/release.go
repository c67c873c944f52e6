package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type releaseCmd struct {
	configFlag
	Name string `arg:"" help:"The name to let go of."`
}

// Help is shown by release --help.
func (releaseCmd) Help() string {
	return `The host that holds the name lets go of it within seconds, takes another one if any is free, and does not take this one again for one TTL (its own membership.ttl). A host that waits for a name takes it. The etcd user needs to read the prefix /prefixproxy/ and to write below /prefixproxy/<pool>/released/.

To free a name for good, stop the daemon that holds it.`
}

// releasePatience is how long the command waits for the holder, which looks at each renewal.
const releasePatience = 10 * time.Second

// Run asks for the name.
func (c *releaseCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	var refused error // before it is explained
	owner, err := ask(ctx, cfg, releasePatience, func(ctx context.Context, client *etcd.Client, in, name string) (owner string, err error) {
		owner, refused = pool.AskFor(ctx, client, in, name)
		return owner, refused
	}, c.Name)
	switch {
	case refused != nil && owner == "" && !slices.Contains(cfg.Membership.Names, c.Name): // nor does a host with a longer list hold it, as far as is known
		return notListed(c.Name, cfg, c.Config)
	case errors.Is(err, pool.ErrNotHeld):
		ui.notef("nobody holds %s", c.Name)
		return nil
	case errors.Is(err, pool.ErrNoLease):
		return hinted(fmt.Errorf("%s (%s): %w", c.Name, owner, refused), cfg.Etcd.Etcdctl()+" del /prefixproxy/"+cfg.Membership.Pool+"/names/"+c.Name)
	case errors.Is(refused, pool.ErrStillHeld):
		return hinted(fmt.Errorf("%s (%s): %w", c.Name, owner, refused), "prefixproxy members shows when it was last renewed: the name of a host that is gone is freed when its lease runs out; and the holder's etcd user must be allowed to read /prefixproxy/"+cfg.Membership.Pool+"/released/")
	case err != nil:
		return err
	}
	_, err = fmt.Fprintf(ui.out, "%s has let go of %s\n", owner, c.Name)
	return err
}
