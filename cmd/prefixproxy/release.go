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
	Name string `arg:"" help:"The name to be let go."`
}

// Help is shown by release --help.
func (releaseCmd) Help() string {
	return `The host that holds the name lets go of it within some seconds, takes another if there is one, and stays away from this one for one TTL (membership.ttl of that host). Who waits for a name takes it. The etcd user needs to read the prefix /prefixproxy/ and to write below /prefixproxy/<pool>/released/.

To stop the host itself, stop its daemon: it releases its name.`
}

// releasePatience is how long the command waits for the holder, who looks at
// each renewal.
const releasePatience = 10 * time.Second

// Run asks for the name.
func (c *releaseCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	var refused error // as it is before it is explained
	owner, err := ask(ctx, cfg, releasePatience, func(ctx context.Context, client *etcd.Client, in, name string) (owner string, err error) {
		owner, refused = pool.AskFor(ctx, client, in, name)
		return owner, refused
	}, c.Name)
	switch {
	case refused != nil && owner == "" && !slices.Contains(cfg.Membership.Names, c.Name): // nor is it held by who has a longer list, as far as is known
		return notListed(c.Name, cfg, c.Config)
	case errors.Is(err, pool.ErrNotHeld):
		ui.notef("nobody holds %s", c.Name)
		return nil
	case errors.Is(err, pool.ErrNoLease):
		return hinted(fmt.Errorf("%s (%s): %w", c.Name, owner, refused), cfg.Etcd.Etcdctl()+" del /prefixproxy/"+cfg.Membership.Pool+"/names/"+c.Name)
	case errors.Is(refused, pool.ErrStillHeld):
		return hinted(fmt.Errorf("%s (%s): %w", c.Name, owner, refused), "prefixproxy members tells when it was renewed last: a host that is gone leaves the name when its lease runs out, and one whose etcd user may not read /prefixproxy/"+cfg.Membership.Pool+"/released/ is not told")
	case err != nil:
		return err
	}
	_, err = fmt.Fprintf(ui.out, "%s has let go of %s\n", owner, c.Name)
	return err
}
