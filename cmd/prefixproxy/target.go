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
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type targetCmd struct {
	Owner string `arg:"" help:"The host, as shown by members (membership.owner)."`
	Expr  string `arg:"" help:"What to draw, with rewrite.from in place of the name: host.cpu.user."`
	configFlag
	From  moment        `placeholder:"TIME" help:"Leave out names that were held only before this time; default: everything on record."`
	Until moment        `placeholder:"TIME" help:"Draw nothing after this time; default: now."`
	Step  time.Duration `default:"1s" help:"Time between two points of the graph; default: ${default}."`
}

// Help is shown by target --help.
func (targetCmd) Help() string {
	return `Prints one line that graphite-web accepts as a target: the series of all names that the host held, each cut to the time when it held it, drawn as one. For example:

    prefixproxy target --config prefixproxy.yaml web17 'host.cpu.*' --from -7d --step 10s

EXPR may be any Graphite expression, with wildcards, functions and tags: host.cpu.{user,system}, sumSeries(host.disk.*.free), seriesByTag('name=host.requests','dc=eu'). Each path in it that contains the node host (rewrite.from) is replaced; StatsD's own prefixes may precede it: stats.timers.host.api.mean. Series are named after the host: web17.cpu.user. Functions that fetch series by name again (applyByNode, aliasQuery) find none, and the tag "name" is lost, so use nodes for aliases: aliasByTags(…,0).

--step is the time between two points of the graph: the step in storage-schemas.conf of the retention that the graph is drawn from, which for a graph that reaches further back may be a coarser one. Then every point is drawn for the right host; the step in which a name changes hands belongs to its former holder. With any other step, points near a change (within the longer of the two steps) are drawn for the wrong host. A name that the host still holds is drawn until now: run the command again when the host has changed its name.

Times are RFC 3339, "14:05", Unix seconds, or relative: -7d, now-90min.`
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
		return usageError(errors.New("--from is after --until"), "write them like --from -7d --until -1d")
	}
	if c.Step < time.Second || c.Step%time.Second != 0 {
		return usageError(fmt.Errorf("--step %v is not a positive number of whole seconds", c.Step), "--step 10s, as in storage-schemas.conf")
	}
	parts, err := target.Parse(c.Expr, cfg.Proxy.Rewrite.From)
	if err != nil {
		return usageError(err, fmt.Sprintf("prefixproxy target %s '%s.cpu.user'", conf.ShellQuote(c.Owner), cfg.Proxy.Rewrite.From))
	}
	past, err := ask(ctx, cfg, etcdPatience, pool.TenuresAround, c.Owner)
	if err != nil {
		return err
	}
	step := int64(c.Step / time.Second)
	spans := target.InSteps(target.SpansOf(c.Owner, past, now), from, until, step)
	if len(spans) == 0 {
		ui.notef("no name of pool %s is on record for %q at that time", cfg.Membership.Pool, c.Owner)
		return nil
	}
	if last := spans[len(spans)-1]; last.To == math.MaxInt64 && until == math.MaxInt64 {
		ui.notef("%q still holds %s: run this again when that has changed", c.Owner, last.Name)
	}
	text := parts.Render(spans, cfg.Proxy.Rewrite.To, c.Owner, step)
	if len(text) > longTarget {
		ui.notef("the target has %d bytes, more than many servers accept in a URL: send it by POST, or shorten it with --from", len(text))
	}
	_, err = fmt.Fprintln(ui.out, text)
	return err
}

// longTarget is what gunicorn accepts in a request line by default, less the rest of the line.
const longTarget = 4000
