// Package config is the configuration of the daemon: a YAML file over the defaults.
//
//	cfg, err := config.Parse(file, text, config.Default(), os.LookupEnv)
//
// It is read strictly, and all that is wrong with it is told at once: each mistake with its place in
// the file, and how to mend it. No secret is told, wherever in the file it stands.
//
// In reading order: config.go (what there is), etcd.go, parse.go (YAML), yaml.go (into the structs),
// hints.go (what was meant), problems.go (how it is told).
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

// A Config is all that steers the daemon: a section for each package, as the
// package itself declares it. The order of the fields is the order of the file.
type Config struct {
	Membership membership.Config `yaml:"membership"`
	Etcd       Etcd              `yaml:"etcd"`
	Proxy      proxy.Config      `yaml:",inline"`
	Graphite   events.Config     `yaml:"graphite"`
	Admin      admin.Config      `yaml:"admin"`
	Telemetry  Telemetry         `yaml:"telemetry"`
}

// Telemetry steers what the daemon says about itself.
type Telemetry struct {
	// StatsD sends our own numbers through our own path, every 10 s; default
	// true. It has no effect where StatsD has no upstream.
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
// the whole. Its error is an Error, which names file.
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

// Share gives the proxy what other sections say.
func (c *Config) Share() {
	c.Proxy.Rewrite.Names = c.Membership.Names
	c.Proxy.Telemetry = c.Telemetry.StatsD
}

// Problems returns what is wrong with the configuration, all of it.
func (c Config) Problems() conf.Problems {
	ps, _ := errors.AsType[conf.Problems](c.Membership.Validate())
	return slices.Concat(ps, c.Etcd.Problems(), c.Proxy.Problems(), c.Graphite.Problems(), c.Admin.Problems(), c.sharedSockets())
}

// sharedSockets tells of a page that would take the socket of a listener, or be an upstream.
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

// Warnings returns what is allowed but dangerous: who can reach us, and what servers wait
// for.
func (c Config) Warnings() []string {
	var ws []string
	if dir := c.Membership.StateDir; !filepath.IsAbs(dir) {
		ws = append(ws, fmt.Sprintf("membership.state_dir %s is relative: started in another directory, the daemon finds neither its last name nor its spool", dir))
	}
	ws = append(ws, relativeFiles("etcd", "password_file", c.Etcd.PasswordFile)...)
	ws = append(ws, relativeFiles("etcd.tls", "ca", c.Etcd.TLS.CA, "cert", c.Etcd.TLS.Cert, "key", c.Etcd.TLS.Key)...)
	for _, a := range c.listeners() {
		if strings.HasPrefix(a.Path, "/tmp/") || strings.HasPrefix(a.Path, "/var/tmp/") {
			ws = append(ws, a.String()+": as a service, the daemon has a /tmp of its own, where nobody finds it; /run/prefixproxy is for sockets")
		}
		if !a.IsLocal() {
			ws = append(ws, fmt.Sprintf("%s is not loopback: everybody who reaches it can write metrics under this host's name", a))
		}
	}
	if !c.Admin.Local() {
		ws = append(ws, fmt.Sprintf("admin.listen %s is not loopback: everybody who reaches it can read names, upstreams and bad lines", c.Admin.Listen))
	}
	if !c.Proxy.Forward.StatsD.Aggregates() && !reflect.DeepEqual(c.Proxy.Aggregate, Default().Proxy.Aggregate) {
		ws = append(ws, "aggregate has no effect: StatsD is counted here where forward.statsd.to is [carbon:]")
	}
	ws = append(ws, unusableFiles("forward.statsd.tls", c.Proxy.Forward.StatsD.TLS)...)
	for path, to := range c.Proxy.Forward.Upstreams() {
		switch isStatsD := strings.HasPrefix(path, "forward.statsd."); {
		case !isStatsD && to.Network == "tcp" && to.Port == 2004:
			ws = append(ws, to.String()+": on 2004 a carbon takes pickles, and no lines; those go to 2003")
		case isStatsD && (to.Port == 2003 || to.Port == 2004), !isStatsD && to.Port == 8125:
			ws = append(ws, fmt.Sprintf("%s: %s: usually StatsD is at 8125, and Carbon at 2003", path, to))
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

// unusableFiles tells of those that a connection to a server cannot do without. They are
// read at each connect, so that they may come later.
func unusableFiles(path string, t link.TLS) (ws []string) {
	ws = relativeFiles(path, "ca", t.CA, "cert", t.Cert, "key", t.Key)
	_, badCA := conf.ReadTLS(t.CA, "", "")
	_, badCert := conf.ReadTLS("", t.Cert, t.Key)
	for _, err := range []error{badCA, badCert} {
		if err != nil {
			ws = append(ws, fmt.Sprintf("%s: %v: the server stays down as long as that is so", path, fileError(err)))
		}
	}
	return ws
}

// relativeFiles tells of the files that only a daemon finds which is started where we are. keysAndFiles
// are those of the section at path.
func relativeFiles(path string, keysAndFiles ...string) (ws []string) {
	for one := range slices.Chunk(keysAndFiles, 2) {
		if key, file := one[0], one[1]; file != "" && !filepath.IsAbs(file) {
			ws = append(ws, fmt.Sprintf("%s.%s is relative: started in another directory, the daemon does not find it", path, key))
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

// YAML writes the configuration as a file that loads as the same.
func (c Config) YAML() ([]byte, error) {
	return yaml.Dump(node("", reflect.ValueOf(c)), yaml.WithIndent(2), yaml.WithCompactSeqIndent(false), yaml.WithLineWidth(-1), yaml.WithQuotePreference(yaml.QuoteDouble))
}

// node returns v as a YAML file has it.
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
			panic("configuration field " + path + ": " + err.Error()) // it was read from text
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

// escape keeps a dollar from being read as the start of a variable.
func escape(s string) string { return strings.ReplaceAll(s, "$", "$$") }

// shortDuration writes d without the zero units of its String: 10m, not 10m0s.
func shortDuration(d time.Duration) string {
	return zeroUnits.ReplaceAllString(d.String(), "$1")
}

var zeroUnits = regexp.MustCompile(`([hm])(?:0m)?0s$`)

// namesPath is the key of the list of names, which has three forms: the word
// mountains, a list, or a prefix with a count.
const namesPath = "membership.names"

// numbered is the third form: web-1 … web-200.
type numbered struct {
	Prefix string `yaml:"prefix"`
	Count  int    `yaml:"count"`
}

// nameBytes are what a name is made of.
const nameBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"

// The bounds of a numbered list: a claim may need a transaction per 120, and a name has 64 bytes.
const (
	maxCount  = 10000
	maxPrefix = 64 - len("10000")
)

// readNames reads namesPath; v is a []string.
func readNames(d *decoder, path string, n *yaml.Node, v reflect.Value) {
	switch n.Kind {
	case yaml.SequenceNode:
		d.list(path, n, v, maxCount)
	case yaml.MappingNode:
		var form numbered
		before := len(d.problems)
		d.section(path, n, reflect.ValueOf(&form).Elem())
		if len(d.problems) > before {
			return
		}
		if strings.Trim(form.Prefix, nameBytes) != "" || len(form.Prefix) > maxPrefix {
			d.addf(join(path, "prefix"), d.nearest(join(path, "prefix")), fmt.Sprintf("letters, digits, _ and -, at most %d, like web-", maxPrefix), "%s", concealed(path+".prefix", fmt.Sprintf("prefix %q is not usable", form.Prefix)))
			return
		}
		if form.Count < 1 || form.Count > maxCount {
			d.addf(join(path, "count"), d.nearest(join(path, "count")), fmt.Sprintf("1 to %d", maxCount), "count %d is out of range", form.Count)
			return
		}
		v.Set(reflect.ValueOf(membership.PrefixedNumerics(form.Prefix, form.Count)))
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

// carbonPath is the key of the destinations of Carbon: a list, or one that is alone.
const carbonPath = "forward.carbon"

// isAlone says whether v, the destinations of Carbon, is one without a name.
func isAlone(v reflect.Value) bool {
	all := v.Interface().([]proxy.CarbonForward)
	return len(all) == 1 && all[0].Name == ""
}
