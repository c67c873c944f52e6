package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type whoCmd struct {
	Name string `arg:"" help:"A name from the list."`
	configFlag
	At   moment `placeholder:"TIME" help:"Show who held it then: RFC 3339, \"14:05\", \"-2h\" or \"-2d\"."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Help is shown by who --help.
func (whoCmd) Help() string {
	return `Without --at, shows the last hosts that held the name, the most recent first. A time of day means its most recent occurrence. Times without a zone are local. For example:

    prefixproxy who --config prefixproxy.yaml Denali --at 14:05

TO and ENDED are "-" (null in JSON) while the name is held. ENDED is "release", or why the name was lost: expired, deleted, overwritten, lost or data_loss. TO is "?" if the host crashed and nobody has claimed the name since. Records are kept for 90 days.`
}

// lastHolders is how many holders are shown without --at.
const lastHolders = 10

// Run prints who holds or held the name.
func (c *whoCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	listed := slices.Contains(cfg.Membership.Names, c.Name)
	past, err := ask(ctx, cfg, etcdPatience, pool.TenuresOf, c.Name)
	switch {
	case !listed && len(past) == 0: // nor was it in a longer list, as far as is known
		return notListed(c.Name, cfg, c.Config)
	case err != nil:
		return err
	case !c.At.IsZero():
		if past = heldAt(past, c.At.Time); len(past) == 0 {
			ui.notef("nobody is on record as holding %s at %s", c.Name, c.At.Local().Format(time.RFC3339))
		}
	default:
		past = past[:min(len(past), lastHolders)]
		if len(past) == 0 || !past[0].Lasts {
			ui.notef("nobody holds %s now", c.Name)
		}
	}
	return writeTenures(ui.out, past, c.JSON)
}

// heldAt returns the tenures in past, the latest first, that lasted at t: one at most, unless
// clocks disagree.
func heldAt(past []pool.Tenure, t time.Time) []pool.Tenure {
	held := slices.DeleteFunc(slices.Clone(past), func(p pool.Tenure) bool {
		return p.From.After(t) || !p.To.IsZero() && !p.To.After(t)
	})
	if len(held) > 1 && held[0].From.IsZero() { // without a record, it began after those that have one
		held = held[1:]
	}
	return held
}

// notListed returns the error for a name that is not in the list in file.
func notListed(name string, cfg config.Config, file string) error {
	names := cfg.Membership.Names
	hint := "the list begins with " + strings.Join(names[:min(len(names), 3)], ", ") + "; for the names of a host: prefixproxy history HOST"
	if closest, far := conf.Closest(name, names); far <= len(name)/2 {
		hint = "did you mean " + closest + "?"
	}
	return usageError(fmt.Errorf("%q is not in the list of names (membership.names in %s)", name, file), hint)
}
