package line

import (
	"fmt"
	"slices"
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// Protocol is how a line is written.
type Protocol uint8

// The protocols.
const (
	StatsD Protocol = iota
	Carbon
)

// String returns "statsd" or "carbon", as keys and labels have it.
func (p Protocol) String() string {
	if p == Carbon {
		return "carbon"
	}
	return "statsd"
}

// Unmatched says what becomes of a line whose path `from` does not match.
type Unmatched string

// The ways with unmatched lines.
const (
	ForwardUnmatched Unmatched = "forward" // they pass as they are, and wait for no name
	PrefixUnmatched  Unmatched = "prefix"  // they are put under our name as they are
	DropUnmatched    Unmatched = "drop"    // they are dropped and counted
)

// Rules say which paths are rewritten, and into what.
type Rules struct {
	// From is the leading node or nodes of a path that stand for this host;
	// default host. Only whole nodes match, and only with a node behind them:
	// with host, host.cpu does; hostess.cpu, app.host.cpu and host do not.
	From string `yaml:"from"`

	// To is what takes their place; default {name}. It must hold {name} once,
	// which is the name that is held, and may hold more: servers.{name}. Each
	// node more lengthens every line.
	To string `yaml:"to"`

	// Unmatched is what becomes of other lines: forward (default), prefix or
	// drop. forward lets applications write outside the host's prefix, and
	// lets dead series grow if they write a host name of their own there;
	// prefix puts every application under the name, drop loses its lines.
	Unmatched Unmatched `yaml:"unmatched"`

	// Points is set where StatsD's lines are to become points here: our own name,
	// however it is written, is then Mark, whether a name is held or not.
	Points bool `yaml:"-"`

	// Names is the list of membership's names: a line under one that is not
	// ours is foreign.
	Names []string `yaml:"-"`
}

// Mark stands for our own name in a line that becomes points, which are named when they
// leave. No client can write it: it is a control byte.
const Mark = "\x01"

const namePlaceholder = "{name}"

// render returns `to` for name.
func (r Rules) render(name string) string {
	return strings.Replace(r.To, namePlaceholder, name, 1)
}

// under says whether path is prefix, or starts with it on whole nodes.
func under(path, prefix string) bool {
	return strings.HasPrefix(path+".", prefix+".")
}

// Problems returns everything that is wrong with the rules.
func (r Rules) Problems() conf.Problems {
	var ps conf.Problems
	if !slices.Contains([]Unmatched{ForwardUnmatched, PrefixUnmatched, DropUnmatched}, r.Unmatched) {
		ps.Addf("rewrite.unmatched", "forward, prefix or drop", "%q says nothing about unmatched lines", r.Unmatched)
	}
	checkNodes(&ps, "rewrite.from", r.From, r.From, "host")
	// {name} is looked at as the node that it becomes.
	if n := strings.Count(r.To, namePlaceholder); n == 1 || r.To == "" {
		checkNodes(&ps, "rewrite.to", r.To, r.render("name"), namePlaceholder)
	} else {
		ps.Addf("rewrite.to", "{name} or servers.{name}",
			"%q holds {name} %d times and must once: without it all hosts would write the same paths", r.To, n)
	}
	if len(ps) > 0 {
		return ps
	}
	for _, p := range []Protocol{StatsD, Carbon} {
		r.checkNames(p, &ps)
		if len(ps) > 0 {
			return ps
		}
	}
	return ps
}

// checkNames complains about a `from` that is, to p's server, a name or below one.
func (r Rules) checkNames(p Protocol, ps *conf.Problems) {
	from, n := p.normal(r.From)
	if n == 0 {
		ps.Addf("rewrite.from", "letters, digits, _ and -", "%v cuts all of %q away", p, r.From)
		return
	}
	hint := "a word that is no name, like host"
	if slices.Contains(r.Names, "host") {
		hint = "a word that is no name, like here"
	}
	for _, name := range r.Names {
		to := r.render(name)
		if key, _ := p.normal(to); name == r.From {
			ps.Addf("rewrite.from", hint, "%q is a name of the list too", r.From)
		} else if under(from, key) {
			ps.Addf("rewrite.from", hint, "%q lies under %s, where only the holder of %s may write", r.From, to, name)
		} else if under(key, tagStore) {
			ps.Addf("rewrite.to", "another prefix, or other names", "%q lies where Carbon keeps series with tags", to)
			return
		}
	}
}

// maxPrefix bounds from and to, in bytes.
const maxPrefix = 250

// checkNodes complains, about value at key, if nodes is no dotted path or holds
// a byte that ends a path.
func checkNodes(ps *conf.Problems, key, value, nodes, hint string) {
	if nodes == "" {
		ps.Addf(key, hint, "it is empty")
		return
	}
	if len(value) > maxPrefix {
		ps.Addf(key, fmt.Sprintf("%d bytes at most", maxPrefix), "it has %d bytes", len(value))
		return
	}
	if strings.Contains("."+nodes+".", "..") {
		ps.Addf(key, "dots only between nodes", "%q has an empty node", value)
	}
	if under(nodes, tagStore) {
		ps.Addf(key, hint, "%q lies where Carbon keeps series with tags", value)
	}
	for _, c := range nodes {
		if c <= ' ' || c >= 0x7f || strings.ContainsRune(":;,#[|@{}*?", c) {
			ps.Addf(key, "printable ASCII without blanks and : ; , # [ | @ { } * ?", "%q holds %q, which no prefix may", value, c)
			return
		}
	}
}
