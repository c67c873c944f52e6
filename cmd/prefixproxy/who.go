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
	Name string `arg:"" help:"The name, one of the list."`
	configFlag
	At   moment `placeholder:"TIME" help:"Who held it then: RFC 3339, \"14:05\", \"-2h\" or \"-2d\"."`
	JSON bool   `name:"json" help:"Print JSON."`
}

// Help is shown by who --help.
func (whoCmd) Help() string {
	return `Without --at: who holds the name now, and the last that did, the latest first. A time of day is the latest such time, on the local clock; a date or a time without a zone is local, too. For example:

    prefixproxy who --config prefixproxy.yaml Denali --at 14:05

TO and ENDED are "-" (null in JSON) while the name is held. They tell the end and why: release, or why the name was lost: expired, deleted, overwritten, lost, data_loss. TO is "?" when the host crashed and nobody has claimed the name since. Records are kept for 90 days.`
}

// lastHolders is how many who shows without --at.
const lastHolders = 10

// Run prints who holds or held the name.
func (c *whoCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	listed := slices.Contains(cfg.Membership.Names, c.Name)
	past, err := ask(ctx, cfg, etcdPatience, pool.TenuresOf, c.Name)
	switch {
	case !listed && len(past) == 0: // nor was it of a longer list, as far as is known
		return notListed(c.Name, cfg, c.Config)
	case err != nil:
		return err
	case !c.At.IsZero():
		if past = heldAt(past, c.At.Time); len(past) == 0 {
			ui.notef("nobody held %s at %s, as far as is recorded", c.Name, c.At.Local().Format(time.RFC3339))
		}
	default:
		past = past[:min(len(past), lastHolders)]
		if len(past) == 0 || !past[0].Lasts {
			ui.notef("nobody holds %s now", c.Name)
		}
	}
	return writeTenures(ui.out, past, c.JSON)
}

// heldAt returns those of past, the latest first, that had the name at t: one,
// unless clocks disagree.
func heldAt(past []pool.Tenure, t time.Time) []pool.Tenure {
	held := slices.DeleteFunc(slices.Clone(past), func(p pool.Tenure) bool {
		return p.From.After(t) || !p.To.IsZero() && !p.To.After(t)
	})
	if n := len(held); n > 1 && held[0].From.IsZero() { // who has no record came after those who have
		held = held[1:]
	}
	return held
}

// notListed is the error of a name that the list in file lacks.
func notListed(name string, cfg config.Config, file string) error {
	names := cfg.Membership.Names
	hint := "the list begins with " + strings.Join(names[:min(len(names), 3)], ", ") + "; what a host has held: prefixproxy history HOST"
	if closest, far := conf.Closest(name, names); far <= len(name)/2 {
		hint = "did you mean " + closest + "?"
	}
	return usageError(fmt.Errorf("%q is not a name of the list membership.names in %s", name, file), hint)
}
