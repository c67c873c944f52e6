package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/target"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type targetCmd struct {
	Owner string `arg:"" help:"The host, as members shows it (membership.owner)."`
	Expr  string `arg:"" help:"What to draw, with rewrite.from for the name: host.cpu.user."`
	configFlag
	From  moment        `placeholder:"TIME" help:"Leave out names that were held only before this time; default: all that is on record."`
	Until moment        `placeholder:"TIME" help:"Draw nothing after this time; default: now."`
	Step  time.Duration `default:"1s" help:"Time between two points of the graph; default: ${default}."`
}

// Help is shown by target --help.
func (targetCmd) Help() string {
	return `Prints one line that graphite-web takes as a target: the series of all the names that the host held, each cut to the time in which it did, drawn as one. For example:

    prefixproxy target --config prefixproxy.yaml web17 'host.cpu.*' --from -7d --step 10s

EXPR may be any Graphite expression, with wildcards, functions and tags: host.cpu.{user,system}, sumSeries(host.disk.*.free), seriesByTag('name=host.requests','dc=eu'). Each path in it that has the node host (rewrite.from) is replaced; StatsD's own prefixes may stand before it: stats.timers.host.api.mean. Series are named after the host: web17.cpu.user. Functions that ask Graphite again for a series by its name (applyByNode, aliasQuery) find none; the tag name is that of a function, so alias by nodes: aliasByTags(…,0).

--step is the time between two points of the graph: the retention in storage-schemas.conf, and for a graph that reaches further back than its first one, the one that is drawn. Then each point is in its place, wherever the graph begins; the step in which a name changes hands is its former holder's. With another step, points near a change (within the longer of both steps) are drawn for the wrong host. A name that the host still holds is drawn until now: when the host has changed its name, ask again.

Times are RFC 3339, "14:05", Unix seconds, or how long ago: -7d, now-90min.`
}

// Run prints the target.
func (c *targetCmd) Run(ctx context.Context, ui *ui, cfg config.Config) error {
	from, until := int64(math.MinInt64), int64(math.MaxInt64)
	now := time.Now()
	if !c.From.IsZero() {
		from = c.From.Unix()
	}
	if !c.Until.IsZero() {
		until = c.Until.Unix()
	}
	if from > until {
		return usageError(errors.New("--from is after --until"), "the earlier one first: --from -7d --until -1d")
	}
	if c.Step < time.Second || c.Step%time.Second != 0 {
		return usageError(fmt.Errorf("--step %v is not in whole seconds", c.Step), "--step 10s, as in storage-schemas.conf")
	}
	parts, err := target.Parse(c.Expr, cfg.Proxy.Rewrite.From)
	if err != nil {
		return usageError(err, fmt.Sprintf("prefixproxy target %s '%s.cpu.user'", conf.ShellQuote(c.Owner), cfg.Proxy.Rewrite.From))
	}
	past, err := ask(ctx, cfg, etcdPatience, tenuresAround, c.Owner)
	if err != nil {
		return err
	}
	step := int64(c.Step / time.Second)
	spans := target.InSteps(target.SpansOf(past.own, past.others, now), from, until, step)
	if len(spans) == 0 {
		ui.notef("%q held no name of pool %s in that time, as far as is recorded", c.Owner, cfg.Membership.Pool)
		return nil
	}
	if last := spans[len(spans)-1]; last.To == math.MaxInt64 && until == math.MaxInt64 {
		ui.notef("%q has the name %s still: when that has changed, ask again", c.Owner, last.Name)
	}
	text := parts.Render(spans, cfg.Proxy.Rewrite.To, c.Owner, step)
	if len(text) > longTarget {
		ui.notef("the target has %d bytes, more than many servers take in a URL: send it by POST, or leave out with --from what is not drawn", len(text))
	}
	_, err = fmt.Fprintln(ui.out, text)
	return err
}

// longTarget is what gunicorn takes of a request line by default, less what else stands there.
const longTarget = 4000

// A sharedPast is the tenures of an owner, and those that others had of the same names.
type sharedPast struct{ own, others []pool.Tenure }

func tenuresAround(ctx context.Context, client *etcd.Client, in, owner string) (past sharedPast, err error) {
	past.own, past.others, err = pool.TenuresAround(ctx, client, in, owner)
	return past, err
}
