package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

type targetCmd struct {
	Owner string `arg:"" help:"The host, as members shows it (membership.owner)."`
	Expr  string `arg:"" help:"What to draw, with rewrite.from for the name: host.cpu.user."`
	configFlag
	From  string        `placeholder:"TIME" help:"Leave out names that were held before only; default: all that is on record."`
	Until string        `placeholder:"TIME" help:"Draw nothing after this time; default: now."`
	Step  time.Duration `default:"1s" help:"Time between two points of the graph; default: ${default}."`
}

// Help is shown by target --help.
func (targetCmd) Help() string {
	return `Prints one line that graphite-web takes as a target: the series of all the names that the host held, each cut to the time in which it did, drawn as one. For example:

    prefixproxy target --config prefixproxy.yaml web17 'host.cpu.*' --from -7d --step 10s

EXPR may be any Graphite expression, with wildcards, functions and tags: host.cpu.{user,system}, sumSeries(host.disk.*.free), seriesByTag('name=host.requests','dc=eu'). Each path in it that has the node host (rewrite.from) is replaced; StatsD's own prefixes may stand before it: stats.timers.host.api.mean. Series are named after the host: web17.cpu.user. Functions that ask Graphite again for a series by its name (applyByNode, aliasQuery) find none; the tag name is that of a function, so alias by nodes: aliasByTags(…,0).

--step is the time between two points of the graph: the retention in storage-schemas.conf, and for a graph that reaches further back than its first one, the one that is drawn. Then each point is in its place, wherever the graph begins; the step in which a name changes hands is its former holder's. With another step, points are taken for the wrong host's for up to the longer of both at each change. A name that the host holds still is drawn until now: when the host has changed its name, ask again.

Times are RFC 3339, "14:05", Unix seconds, or how long ago: -7d, now-90min.`
}

// Run prints the target.
func (c *targetCmd) Run(ctx context.Context, ui *ui) error {
	cfg, err := c.load()
	if err != nil {
		return err
	}
	from, until := int64(math.MinInt64), int64(math.MaxInt64)
	now := time.Now()
	for _, bound := range []struct {
		flag, text string
		at         *int64
	}{{"--from", c.From, &from}, {"--until", c.Until, &until}} {
		if bound.text == "" {
			continue
		}
		t, err := parseTime(bound.flag, bound.text, now)
		if err != nil {
			return err
		}
		*bound.at = t.Unix()
	}
	if from > until {
		return usageError(fmt.Errorf("--from %s is after --until %s", c.From, c.Until), "the earlier one first: --from -7d --until -1d")
	}
	if c.Step < time.Second || c.Step%time.Second != 0 {
		return usageError(fmt.Errorf("--step %v is not in whole seconds", c.Step), "--step 10s, as in storage-schemas.conf")
	}
	parts, err := parseTarget(c.Expr, cfg.Proxy.Rewrite.From)
	if err != nil {
		return usageError(err, fmt.Sprintf("prefixproxy target %s '%s.cpu.user'", quoteShell(c.Owner), cfg.Proxy.Rewrite.From))
	}
	var own, others []pool.Tenure
	err = cfg.Etcd.ask(ctx, func(ctx context.Context, client *etcd.Client) (err error) {
		own, others, err = tenuresAround(ctx, client, cfg.Membership.Pool, c.Owner)
		return err
	})
	if err != nil {
		return err
	}
	step := int64(c.Step / time.Second)
	spans := inSteps(spansOf(own, others, now), from, until, step)
	if len(spans) == 0 {
		ui.notef("%q held no name of pool %s in that time, as far as is recorded%s", c.Owner, cfg.Membership.Pool, likeOwner(ctx, cfg, c.Owner))
		return nil
	}
	if last := spans[len(spans)-1]; last.to == math.MaxInt64 && until == math.MaxInt64 {
		ui.notef("%q has the name %s still: when that has changed, ask again", c.Owner, last.name)
	}
	target := parts.render(spans, cfg.Proxy.Rewrite.To, c.Owner, step)
	if len(target) > longTarget {
		ui.notef("the target has %d bytes, more than many servers take in a URL: send it by POST, or leave out with --from what is not drawn", len(target))
	}
	_, err = fmt.Fprintln(ui.out, target)
	return err
}

// longTarget is what gunicorn takes of a request line by default, less what else stands there.
const longTarget = 4000

// tenuresAround returns the tenures of owner, and those that others had of the same
// names.
func tenuresAround(ctx context.Context, client *etcd.Client, in, owner string) (own, others []pool.Tenure, err error) {
	if own, err = pool.TenuresBy(ctx, client, in, owner); err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	for _, t := range own {
		if seen[t.Name] {
			continue
		}
		seen[t.Name] = true
		all, err := pool.TenuresOf(ctx, client, in, t.Name)
		if err != nil {
			return nil, nil, err
		}
		others = append(others, slices.DeleteFunc(all, func(t pool.Tenure) bool { return t.Owner == owner })...)
	}
	return own, others, nil
}

// A nameSpan is the seconds, both included, in which a name was one host's.
type nameSpan struct {
	name     string
	from, to int64 // in Unix seconds; to is the highest int64 where the name is held still
}

// spansOf returns which name was a host's in which seconds, in the order of time: by
// the rule of Carbon lines (membership.Claim.NameAt), the second in which a name
// changes hands is its former holder's, and the seconds in which it was free are its
// next one's. Spans of one name with nobody between them are one.
//
// A tenure that a crash left without an end ends when the owner has the next name, and
// before now: nobody has its name by then.
func spansOf(own, others []pool.Tenure, now time.Time) []nameSpan {
	var spans []nameSpan
	own = slices.DeleteFunc(slices.Clone(own), func(t pool.Tenure) bool { return t.From.IsZero() })
	slices.SortStableFunc(own, func(a, b pool.Tenure) int { return a.From.Compare(b.From) })
	before := int64(math.MinInt64) // the last second of the tenures before
	for i, t := range own {
		s := nameSpan{t.Name, ceilUnix(t.From), math.MaxInt64}
		switch {
		case t.Lasts:
		case !t.To.IsZero():
			s.to = t.To.Unix()
		case i+1 < len(own):
			s.to = ceilUnix(own[i+1].From) - 1
		default:
			s.to = now.Unix()
		}
		free := before
		for _, o := range others {
			switch {
			case o.Name != t.Name || o.From.IsZero():
			case o.From.After(t.From):
				s.to = min(s.to, ceilUnix(o.From)-1)
			case !o.To.IsZero():
				free = max(free, o.To.Add(pool.ClocksApart).Unix())
			}
		}
		if free == math.MinInt64 {
			free = t.From.Unix() - 1 // nobody is known to have had it before
		}
		s.from = min(s.from, free+1)
		before = max(before, min(s.to, now.Unix()))
		i := len(spans) - 1
		switch {
		case s.to < s.from:
		case i >= 0 && spans[i].name == s.name && s.from <= spans[i].to+1:
			spans[i].to = max(spans[i].to, s.to)
		default:
			spans = append(spans, s)
		}
	}
	return spans
}

// ceilUnix returns the first whole second at t or after it.
func ceilUnix(t time.Time) int64 { return t.Add(time.Second - time.Nanosecond).Unix() }

// inSteps returns the steps, by their first seconds, in which a name was one host's, of spans
// that reach into from..until, none later than that. A step in which it changes hands is its
// former holder's, as a second is, for that is what hosts do that count StatsD themselves.
func inSteps(spans []nameSpan, from, until, step int64) (in []nameSpan) {
	for _, s := range spans {
		if s.to < from || s.from > until {
			continue
		}
		s.from = (s.from + step - 1) / step * step
		if s.to = min(s.to, until); s.to != math.MaxInt64 {
			s.to = s.to / step * step
		}
		if s.from <= s.to {
			in = append(in, s)
		}
	}
	return in
}
