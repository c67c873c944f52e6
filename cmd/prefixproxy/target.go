package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
)

type targetCmd struct {
	Owner string `arg:"" help:"The host, as members shows it (membership.owner)."`
	Expr  string `arg:"" help:"What to draw, with rewrite.from for the name: host.cpu.user."`
	configFlag
	From  string        `placeholder:"TIME" help:"Leave out names that were held before only: RFC 3339, \"14:05\", \"-2h\" or \"-7d\"; default: all that is on record."`
	Until string        `placeholder:"TIME" help:"Draw nothing after this time; default: now."`
	Step  time.Duration `default:"1s" help:"Time between two points in Graphite; default: ${default}."`
}

// Help is shown by target --help.
func (targetCmd) Help() string {
	return `Prints one line that graphite-web takes as a target: the series of all the names that the host held, each cut to the time in which it did, drawn as one. For example:

    prefixproxy target --config prefixproxy.yaml web17 'host.cpu.*' --from -7d --step 10s

EXPR may be any Graphite expression, with wildcards and functions. Each path in it that has the node host (rewrite.from) is replaced; StatsD's own prefixes may stand before it: stats.timers.host.api.mean. Series are named after the host: web17.cpu.user.

Graphite cuts series by the time from which a graph is drawn, and stores one value a step, the last that came. --step says how long that is (the retention in storage-schemas.conf); then a graph that begins at a whole step is exact to the point, and any other one to less than a step. A name that the host holds still is drawn until now: when the host has changed its name, ask again.`
}

// Run prints the target.
func (c *targetCmd) Run(ctx context.Context, ui *ui) error {
	cfg, err := loadConfig(c.Config, defaultConfig())
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
		t, err := parseAt(bound.text, now)
		if err != nil {
			return usageError{hinted{fmt.Errorf("%s %q is no time", bound.flag, bound.text), bound.flag + " 2026-01-31T14:05:00Z, 14:05, -2h or -7d"}}
		}
		*bound.at = t.Unix()
	}
	if c.Step < time.Second || c.Step%time.Second != 0 {
		return usageError{hinted{fmt.Errorf("--step %v is not in whole seconds", c.Step), "--step 10s, as in storage-schemas.conf"}}
	}
	parts, err := parseTarget(c.Expr, cfg.Proxy.Rewrite.From)
	if err != nil {
		return usageError{hinted{err, fmt.Sprintf("prefixproxy target %s '%s.cpu.user'", quoteShell(c.Owner), cfg.Proxy.Rewrite.From)}}
	}
	var own, others []membership.Tenure
	err = cfg.Etcd.ask(ctx, func(ctx context.Context, client *membership.Client) (err error) {
		own, others, err = tenuresAround(ctx, client, cfg.Membership.Pool, c.Owner)
		return err
	})
	if err != nil {
		return err
	}
	spans := reaching(spansOf(own, others), from, until)
	if len(spans) == 0 {
		ui.notef("%q held no name of pool %s in that time, as far as is recorded", c.Owner, cfg.Membership.Pool)
		return nil
	}
	if last := spans[len(spans)-1]; last.to == math.MaxInt64 && until == math.MaxInt64 {
		ui.notef("%q has the name %s still: when that has changed, ask again", c.Owner, last.name)
	}
	_, err = fmt.Fprintln(ui.out, parts.render(spans, cfg.Proxy.Rewrite.To, c.Owner, int64(c.Step/time.Second)))
	return err
}

// tenuresAround returns the tenures of owner, and those that others had of the same
// names.
func tenuresAround(ctx context.Context, client *membership.Client, pool, owner string) (own, others []membership.Tenure, err error) {
	if own, err = membership.TenuresBy(ctx, client, pool, owner); err != nil {
		return nil, nil, err
	}
	seen := map[string]bool{}
	for _, t := range own {
		if seen[t.Name] {
			continue
		}
		seen[t.Name] = true
		all, err := membership.TenuresOf(ctx, client, pool, t.Name)
		if err != nil {
			return nil, nil, err
		}
		others = append(others, slices.DeleteFunc(all, func(t membership.Tenure) bool { return t.Owner == owner })...)
	}
	return own, others, nil
}

// A nameSpan is the seconds, both included, in which a name was one host's.
type nameSpan struct {
	name     string
	from, to int64 // in Unix seconds; to is the highest int64 where the name is held still
}

// clocksApart is by how much the clocks of hosts may differ: as membership has it.
const clocksApart = 5 * time.Second

// spansOf returns which name was a host's in which seconds, in the order of time: by
// the rule of Carbon lines (membership.Claim.NameAt), the second in which a name
// changes hands is its former holder's, and the seconds in which it was free are its
// next one's. Spans of one name with nobody between them are one.
func spansOf(own, others []membership.Tenure) []nameSpan {
	var spans []nameSpan
	own = slices.DeleteFunc(slices.Clone(own), func(t membership.Tenure) bool { return t.From.IsZero() })
	slices.SortStableFunc(own, func(a, b membership.Tenure) int { return a.From.Compare(b.From) })
	before := int64(math.MinInt64) // the last second of the tenures before
	for _, t := range own {
		s := nameSpan{t.Name, ceilUnix(t.From), math.MaxInt64}
		if !t.Lasts && !t.To.IsZero() {
			s.to = t.To.Unix()
		}
		free := before
		for _, o := range others {
			switch {
			case o.Name != t.Name || o.From.IsZero():
			case o.From.After(t.From):
				s.to = min(s.to, ceilUnix(o.From)-1)
			case !o.To.IsZero():
				free = max(free, o.To.Add(clocksApart).Unix())
			}
		}
		if free == math.MinInt64 {
			free = t.From.Unix() - 1 // nobody is known to have had it before
		}
		s.from = min(s.from, free+1)
		before = max(before, s.to)
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

// reaching returns those of spans that reach into from..until, none later than that.
func reaching(spans []nameSpan, from, until int64) (in []nameSpan) {
	for _, s := range spans {
		if s.to >= from && s.from <= until {
			if until != math.MaxInt64 {
				s.to = min(s.to, until)
			}
			in = append(in, s)
		}
	}
	return in
}

// A targetPart is a piece of a Graphite expression: a path under the name, or text
// that stays as it is.
type targetPart struct {
	text  string
	nodes []string // of a path; nil: text
	at    int      // which of them stands for the name
	wide  int      // and how many
}

type targetParts []targetPart

// parseTarget takes a Graphite expression apart. from are the nodes that stand for the
// name. What is not one whole expression is refused: it may be put into another one.
func parseTarget(expr, from string) (parts targetParts, err error) {
	if strings.TrimSpace(expr) == "" {
		return nil, errors.New("there is no expression")
	}
	paths, depth := 0, 0
	for rest := expr; rest != ""; {
		n := 1
		switch c := rest[0]; {
		case c < ' ' || c > '~':
			return nil, fmt.Errorf("%+q is no Graphite expression: it holds more than printable ASCII", expr)
		case c == '"' || c == '\'':
			end := strings.IndexByte(rest[1:], c)
			if end < 0 {
				return nil, fmt.Errorf("%q is no Graphite expression: a quote is not closed", expr)
			}
			n = end + 2
		case c == '(':
			depth++
		case c == ')':
			if depth--; depth < 0 {
				return nil, fmt.Errorf("%q is no Graphite expression: a parenthesis is closed and was not opened", expr)
			}
		case c == ',' && depth == 0:
			return nil, fmt.Errorf("%q is more than one Graphite expression", expr)
		case c == ',' || c == '|' || c == ' ' || c == '=':
		default:
			if n, err = wordEnd(rest); err != nil {
				return nil, fmt.Errorf("%q is no Graphite expression: %w", expr, err)
			}
			isCall := strings.HasPrefix(strings.TrimLeft(rest[n:], " "), "(")
			if p, ok := pathUnder(rest[:n], from); ok && !isCall {
				parts, rest = append(parts, p), rest[n:]
				paths++
				continue
			}
		}
		parts, rest = append(parts, targetPart{text: rest[:n]}), rest[n:]
	}
	switch {
	case depth > 0:
		return nil, fmt.Errorf("%q is no Graphite expression: a parenthesis is not closed", expr)
	case paths == 0:
		return nil, fmt.Errorf("%q has no path below %s", expr, from)
	}
	return parts, nil
}

// wordEnd returns the length of the path, name or number with which s begins.
func wordEnd(s string) (n int, err error) {
	braces := 0
	for ; n < len(s); n++ {
		switch c := s[n]; {
		case c == '\\' && n+1 < len(s):
			n++
		case c == '{':
			braces++
		case c == '}':
			braces--
		case c == '.' && braces > 0:
			return 0, errors.New("a node in braces has a dot")
		case strings.IndexByte("()|'\" \t", c) >= 0 || c < ' ' || c > '~':
			if braces != 0 {
				return 0, errors.New("a brace is not closed")
			}
			return n, nil
		case c == ',' && braces == 0:
			return n, nil
		}
		if braces < 0 || braces > 1 {
			return 0, errors.New("braces don't match")
		}
	}
	if braces != 0 {
		return 0, errors.New("a brace is not closed")
	}
	return n, nil
}

// pathUnder returns a path whose nodes from are whole nodes of, with some below; they
// lead it, or stand behind the prefixes that statsd puts before all.
func pathUnder(word, from string) (p targetPart, ok bool) {
	nodes, name := strings.Split(word, "."), strings.Split(from, ".")
	for i := 0; i+len(name) < len(nodes); i++ {
		if slices.Equal(nodes[i:i+len(name)], name) && !slices.Contains(nodes[i+len(name):], "") {
			return targetPart{nodes: nodes, at: i, wide: len(name)}, true
		}
	}
	return targetPart{}, false
}

// render returns the expression, with the series of all spans in the place of each
// path. to is rewrite.to; step is the time between two points, in seconds.
func (ps targetParts) render(spans []nameSpan, to, owner string, step int64) string {
	var b strings.Builder
	for _, p := range ps {
		if p.nodes == nil {
			b.WriteString(p.text)
			continue
		}
		p.follow(&b, spans, to, owner, step)
	}
	return b.String()
}

// follow writes the series of all spans as one:
//
//	aliasSub(groupByNodes(group(
//	  timeSlice(Denali.cpu,'…','…'),timeSlice(MtLogan.cpu,'…')),'last',1),'^','web17.')
//
// timeSlice of graphite-web counts the points from where the graph begins, which lies
// before the first point by up to a step: a whole step, where the graph begins at one.
func (p targetPart) follow(b *strings.Builder, spans []nameSpan, to, owner string, step int64) {
	before, after := strings.Join(p.nodes[:p.at], "."), strings.Join(p.nodes[p.at+p.wide:], ".")
	if before != "" {
		before += "."
	}
	own := strings.Split(to, ".")
	at := p.at + slices.IndexFunc(own, func(node string) bool { return strings.Contains(node, "{name}") })
	nodes := p.at + len(own) + len(p.nodes) - p.at - p.wide

	b.WriteString("aliasSub(groupByNodes(group(")
	for i, s := range spans {
		if i > 0 {
			b.WriteByte(',')
		}
		path := before + strings.ReplaceAll(to, "{name}", s.name) + "." + after
		if s.to == math.MaxInt64 {
			fmt.Fprintf(b, "timeSlice(%s,'%d')", path, s.from-step)
		} else {
			fmt.Fprintf(b, "timeSlice(%s,'%d','%d')", path, s.from-step, s.to-step)
		}
	}
	b.WriteString("),'last'")
	for i := range nodes {
		if i != at {
			fmt.Fprintf(b, ",%d", i)
		}
	}
	label := strings.Map(labelRune, owner)
	if at == 0 {
		fmt.Fprintf(b, "),'^','%s.')", label)
	} else {
		fmt.Fprintf(b, `),'^(([^.]*[.]){%d})','\g<1>%s.')`, at, label)
	}
}

// labelRune keeps what is safe in a node, and in a replacement: an owner is any
// printable text.
func labelRune(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
		return r
	}
	return '_'
}
