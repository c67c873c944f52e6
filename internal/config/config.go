// Package config is the configuration of the daemon: a YAML file over the defaults.
//
//	cfg, err := config.Parse(file, text, config.Default(), os.LookupEnv)
//
// It is read strictly, and all mistakes are reported at once, each with its place in the file and how
// to mend it. Reports contain no secret, wherever in the file it may be.
//
// In reading order: config.go (what there is), etcd.go, parse.go (from text to YAML nodes), yaml.go
// (from nodes to structs), hints.go (what was meant), problems.go (how mistakes are reported).
package config

import (
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/internal/admin"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/events"
	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A Config is the whole configuration: a section for each package, declared by the package itself.
// The order of the fields is the order of the file.
type Config struct {
	Membership membership.Config `yaml:"membership"`
	Etcd       Etcd              `yaml:"etcd"`
	Proxy      proxy.Config      `yaml:",inline"`
	Graphite   events.Config     `yaml:"graphite"`
	Admin      admin.Config      `yaml:"admin"`
	Telemetry  Telemetry         `yaml:"telemetry"`
}

// Telemetry configures what the daemon reports about itself.
type Telemetry struct {
	// StatsD sends our own metrics through our own path, every 10 s; default true. It has no effect
	// if StatsD has no upstream.
	StatsD bool `yaml:"statsd"`
}

// Default returns the defaults. Endpoints and upstreams have none.
func Default() Config {
	return Config{
		Membership: membership.DefaultConfig(),
		Proxy:      proxy.DefaultConfig(),
		Admin:      admin.DefaultConfig(),
		Telemetry:  Telemetry{StatsD: true},
	}
}

// Parse reads the text of a YAML file over the defaults, with variables from lookupEnv, and checks
// the result. Its error is an Error, which names file.
func Parse(file string, text []byte, defaults Config, lookupEnv func(string) (string, bool)) (Config, error) {
	cfg := defaults
	d := decoder{lookupEnv: lookupEnv}
	d.decode(text, reflect.ValueOf(&cfg).Elem())
	cfg.Share()
	d.add(cfg.Problems())
	if len(d.problems) > 0 {
		return Config{}, newError(file, d.problems)
	}
	return cfg, nil
}

// Share gives the proxy what it needs of other sections.
func (c *Config) Share() {
	c.Proxy.Rewrite.Names = c.Membership.Names
	c.Proxy.Telemetry = c.Telemetry.StatsD
}

// Problems returns what is wrong with the configuration, all of it.
func (c Config) Problems() conf.Problems {
	ps, _ := errors.AsType[conf.Problems](c.Membership.Validate())
	return slices.Concat(ps, c.Etcd.Problems(), c.Proxy.Problems(), c.Graphite.Problems(), c.Admin.Problems(), c.sharedSockets())
}

// sharedSockets reports a page that would take the socket of a listener, or is an upstream.
func (c Config) sharedSockets() (ps conf.Problems) {
	at, err := c.Admin.Address()
	if err != nil { // it is off, or wrong
		return nil
	}
	page := at.Socket()
	for path, to := range c.Proxy.Forward.Upstreams() {
		if to.Socket().Reaches(page) {
			ps.Addf(path, "move the page or the server to another port", "%s is our own page", to)
		}
	}
	for _, a := range c.listeners() {
		if page.Takes(a.Socket()) {
			ps.Addf("admin.listen", "give it another port or path", "%s would take the socket of the listener %s", c.Admin.Listen, a)
		}
	}
	return ps
}

func (c Config) listeners() []proxy.Address {
	return slices.Concat(c.Proxy.Listen.StatsD, c.Proxy.Listen.Carbon)
}

// Warnings returns what is allowed, but dangerous or probably a mistake.
func (c Config) Warnings() []string {
	var ws []string
	if dir := c.Membership.StateDir; !filepath.IsAbs(dir) {
		ws = append(ws, fmt.Sprintf("membership.state_dir %s is relative: if started in another directory, the daemon finds neither its last name nor its spool", dir))
	}
	ws = append(ws, relativeFiles("etcd", "password_file", c.Etcd.PasswordFile)...)
	ws = append(ws, relativeFiles("etcd.tls", "ca", c.Etcd.TLS.CA, "cert", c.Etcd.TLS.Cert, "key", c.Etcd.TLS.Key)...)
	for _, a := range c.listeners() {
		if strings.HasPrefix(a.Path, "/tmp/") || strings.HasPrefix(a.Path, "/var/tmp/") {
			ws = append(ws, a.String()+": as a service, the daemon has a private /tmp, which nobody else sees; use /run/prefixproxy")
		}
		if !a.IsLocal() {
			ws = append(ws, fmt.Sprintf("%s is not loopback: anybody who can reach it can write metrics under this host's name", a))
		}
	}
	if !c.Admin.Local() {
		ws = append(ws, fmt.Sprintf("admin.listen %s is not loopback: anybody who can reach it can read names, upstreams and bad lines", c.Admin.Listen))
	}
	if !c.Proxy.Forward.StatsD.Aggregates() && !reflect.DeepEqual(c.Proxy.Aggregate, Default().Proxy.Aggregate) {
		ws = append(ws, "aggregate has no effect unless forward.statsd.to is [carbon:]")
	}
	ws = append(ws, unusableFiles("forward.statsd.tls", c.Proxy.Forward.StatsD.TLS)...)
	for path, to := range c.Proxy.Forward.Upstreams() {
		switch isStatsD := strings.HasPrefix(path, "forward.statsd."); {
		case !isStatsD && to.Network == "tcp" && to.Port == 2004:
			ws = append(ws, to.String()+": carbon expects pickles on port 2004, not lines, which go to 2003")
		case isStatsD && (to.Port == 2003 || to.Port == 2004), !isStatsD && to.Port == 8125:
			ws = append(ws, fmt.Sprintf("%s: %s: StatsD is usually on port 8125, and Carbon on 2003", path, to))
		}
	}
	for _, d := range c.Proxy.Forward.Carbon {
		ws = append(ws, unusableFiles("forward.carbon.tls", d.TLS)...)
	}
	return ws
}

// Warn logs the warnings.
func (c Config) Warn(log *slog.Logger) {
	for _, w := range c.Warnings() {
		log.Warn("configuration", "warning", w)
	}
}

// unusableFiles returns warnings of files without which no connection to a server is possible. They
// are read at each connect, and so may still be created.
func unusableFiles(path string, t link.TLS) (ws []string) {
	ws = relativeFiles(path, "ca", t.CA, "cert", t.Cert, "key", t.Key)
	_, badCA := conf.ReadTLS(t.CA, "", "")
	_, badCert := conf.ReadTLS("", t.Cert, t.Key)
	for _, err := range []error{badCA, badCert} {
		if err != nil {
			ws = append(ws, fmt.Sprintf("%s: %v: until that is fixed, the server counts as down", path, fileError(err)))
		}
	}
	return ws
}

// relativeFiles returns warnings of files that the daemon finds only if it is started in this
// directory. keysAndFiles are those of the section at path.
func relativeFiles(path string, keysAndFiles ...string) (ws []string) {
	for one := range slices.Chunk(keysAndFiles, 2) {
		if key, file := one[0], one[1]; file != "" && !filepath.IsAbs(file) {
			ws = append(ws, fmt.Sprintf("%s.%s is relative: if started in another directory, the daemon does not find it", path, key))
		}
	}
	return ws
}

// Changed returns the keys, in the order of the file, whose values differ.
func Changed(a, b Config) (keys []string) {
	after := map[string]any{}
	for _, f := range values("", reflect.ValueOf(b)) {
		after[f.key] = f.value.Interface()
	}
	for _, f := range values("", reflect.ValueOf(a)) {
		if !reflect.DeepEqual(f.value.Interface(), after[f.key]) {
			keys = append(keys, f.key)
		}
	}
	return keys
}

// YAML returns the configuration as a file that loads as the same configuration.
func (c Config) YAML() ([]byte, error) {
	return yaml.Dump(node("", reflect.ValueOf(c)), yaml.WithIndent(2), yaml.WithCompactSeqIndent(false), yaml.WithLineWidth(-1), yaml.WithQuotePreference(yaml.QuoteDouble))
}

// node returns v as it is in a YAML file.
func node(path string, v reflect.Value) *yaml.Node {
	n := &yaml.Node{}
	switch {
	case path == namesPath:
		return namesNode(v.Interface().([]string))
	case path == carbonPath && isAlone(v):
		return node(path+"[]", v.Index(0))
	case isText(v) || v.Kind() != reflect.Struct && v.Kind() != reflect.Slice:
		value := v.Interface()
		if d, ok := value.(time.Duration); ok {
			value = shortDuration(d)
		}
		if err := n.Encode(value); err != nil {
			panic("configuration field " + path + ": " + err.Error()) // impossible: it was read from text
		}
		n.Value, n.Style = escape(n.Value), 0 // the usual quotes
	case v.Kind() == reflect.Struct:
		n.Kind = yaml.MappingNode
		for _, f := range fields(v) {
			n.Content = append(n.Content, &yaml.Node{Kind: yaml.ScalarNode, Value: f.key}, node(join(path, f.key), f.value))
		}
	default:
		n.Kind = yaml.SequenceNode
		for i := range v.Len() {
			n.Content = append(n.Content, node(path+"[]", v.Index(i)))
		}
	}
	return n
}

// escape keeps dollars from being read as the start of a variable.
func escape(s string) string { return strings.ReplaceAll(s, "$", "$$") }

// shortDuration is d.String without zero units: 10m, not 10m0s.
func shortDuration(d time.Duration) string {
	return zeroUnits.ReplaceAllString(d.String(), "$1")
}

var zeroUnits = regexp.MustCompile(`([hm])(?:0m)?0s$`)

// namesPath is the key of the list of names, which has three forms: the word mountains, a list, or a
// prefix with a count.
const namesPath = "membership.names"

// numbered is the third form: {prefix: web-, count: 200}.
type numbered struct {
	Prefix string `yaml:"prefix"`
	Count  int    `yaml:"count"`
}

// nameBytes are the bytes that names may consist of.
const nameBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// The bounds of a numbered list: a claim may need a transaction per 120 names, and a name has 64
// bytes at most.
const (
	maxCount  = 10000
	maxPrefix = 64 - len("10000")
)

func (n numbered) problems() (ps conf.Problems) {
	if strings.Trim(n.Prefix, nameBytes) != "" || len(n.Prefix) > maxPrefix {
		ps.Addf(join(namesPath, "prefix"), fmt.Sprintf("letters, digits, _ and -, at most %d, like web-", maxPrefix), "prefix %q is not usable", n.Prefix)
	}
	if n.Count < 1 || n.Count > maxCount {
		ps.Addf(join(namesPath, "count"), fmt.Sprintf("1 to %d", maxCount), "count %d is out of range", n.Count)
	}
	return ps
}

// readNames reads the list of names into v, a []string.
func readNames(d *decoder, path string, n *yaml.Node, v reflect.Value) {
	switch n.Kind {
	case yaml.SequenceNode:
		d.list(path, n, v, maxCount)
	case yaml.MappingNode:
		var form numbered
		before := len(d.problems)
		d.section(path, n, reflect.ValueOf(&form).Elem())
		d.add(form.problems())
		if len(d.problems) == before {
			v.Set(reflect.ValueOf(membership.PrefixedNumerics(form.Prefix, form.Count)))
		}
	default:
		word, _, ok := d.text(path, n, v)
		if !ok {
			return
		}
		if word != "mountains" {
			d.wrongf(path, n, "mountains, [Denali, MtLogan] or {prefix: web-, count: 200}", "want a list of names, got %s", describe(n))
			return
		}
		v.Set(reflect.ValueOf(membership.Mountains()))
	}
}

// namesNode returns the shortest form of a list of names.
func namesNode(names []string) *yaml.Node {
	if slices.Equal(names, membership.Mountains()) {
		return node("", reflect.ValueOf("mountains"))
	}
	if len(names) > 0 {
		prefix := strings.TrimSuffix(names[0], "1")
		if slices.Equal(names, membership.PrefixedNumerics(prefix, len(names))) {
			return node("", reflect.ValueOf(numbered{prefix, len(names)}))
		}
	}
	return node("", reflect.ValueOf(names))
}

// carbonPath is the key of the destinations of Carbon: a list, or a single one.
const carbonPath = "forward.carbon"

// isAlone reports whether v, the destinations of Carbon, is a single one without a name.
func isAlone(v reflect.Value) bool {
	all := v.Interface().([]proxy.CarbonForward)
	return len(all) == 1 && all[0].Name == ""
}
