package main

import (
	"encoding"
	"fmt"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/prefixproxy/prefixproxy/internal/admin"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A config is all that steers the daemon: a section for each package, as the
// package itself declares it. The order of the fields is the order of the file.
type config struct {
	Membership membership.Config `yaml:"membership"`
	Etcd       etcdConfig        `yaml:"etcd"`
	Proxy      proxy.Config      `yaml:",inline"`
	Admin      admin.Config      `yaml:"admin"`
	Telemetry  telemetryConfig   `yaml:"telemetry"`
}

// telemetryConfig steers what the daemon says about itself.
type telemetryConfig struct {
	// StatsD sends our own numbers through our own path, every 10 s; default
	// true. It has no effect where StatsD has no upstream.
	StatsD bool `yaml:"statsd"`
}

// defaultConfig returns the defaults. Endpoints and upstreams have none.
func defaultConfig() config {
	return config{
		Membership: membership.DefaultConfig(),
		Proxy:      proxy.DefaultConfig(),
		Admin:      admin.DefaultConfig(),
		Telemetry:  telemetryConfig{StatsD: true},
	}
}

// loadConfig reads the YAML file over the defaults and checks the whole. Its
// error is a *configError when the file can be read.
func loadConfig(file string, defaults config) (config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return config{}, unreadable{hinted{err, "every key is explained in config.example.yaml"}}
	}
	return parseConfig(file, text, defaults, os.LookupEnv)
}

// parseConfig is loadConfig of text, with variables from lookupEnv.
func parseConfig(file string, text []byte, defaults config, lookupEnv func(string) (string, bool)) (config, error) {
	cfg, text := defaults, normalize(text)
	d := decoder{lookupEnv: lookupEnv, forms: forms}
	d.decode(text, reflect.ValueOf(&cfg).Elem())
	cfg.share()
	d.add(cfg.Problems())
	if len(d.problems) > 0 {
		return config{}, newConfigError(file, text, d.problems)
	}
	return cfg, nil
}

// forms are the values that may be written in more than one.
var forms = map[string]form{namesPath: readNames, carbonPath: readDestinations}

// share gives the proxy what other sections say.
func (c *config) share() {
	c.Proxy.Rewrite.Names = c.Membership.Names
	c.Proxy.Telemetry = c.Telemetry.StatsD
}

// Problems returns what is wrong with the configuration, all of it.
func (c config) Problems() conf.Problems {
	return slices.Concat(c.Membership.Problems(), c.Etcd.Problems(), c.Proxy.Problems(), c.Admin.Problems(), c.sharedSockets())
}

// sharedSockets tells of a page that would take the socket of a listener.
func (c config) sharedSockets() (ps conf.Problems) {
	at := c.Admin.Listen
	if !strings.HasPrefix(at, "unix://") {
		at = "tcp://" + at
	}
	page, err := proxy.ParseAddress(at)
	if err != nil {
		return nil // off, or a problem of its own
	}
	for _, a := range slices.Concat(c.Proxy.Listen.StatsD, c.Proxy.Listen.Carbon) {
		if page.Takes(a) {
			ps.Addf("admin.listen", "give it another port or path", "%s would take the socket of the listener %s", c.Admin.Listen, a)
		}
	}
	return ps
}

// warnings returns what is allowed but dangerous: who can reach us.
func (c config) warnings() []string {
	var ws []string
	for _, a := range slices.Concat(c.Proxy.Listen.StatsD, c.Proxy.Listen.Carbon) {
		if !isLocal(a) {
			ws = append(ws, fmt.Sprintf("%s is not loopback: everybody who reaches it can write metrics under this host's name", a))
		}
	}
	if !c.Admin.Local() {
		ws = append(ws, fmt.Sprintf("admin.listen %s is not loopback: everybody who reaches it can read names, upstreams and bad lines", c.Admin.Listen))
	}
	return ws
}

// isLocal says whether only this host can reach a listener.
func isLocal(a proxy.Address) bool {
	ip := net.ParseIP(a.Host)
	return a.Path != "" || strings.EqualFold(a.Host, "localhost") || ip != nil && ip.IsLoopback()
}

// YAML writes the configuration as a file that loads as the same.
func (c config) YAML() ([]byte, error) {
	return yaml.MarshalWithOptions(plain("", reflect.ValueOf(c)), yaml.IndentSequence(true))
}

// plain returns v in the types that a YAML file knows.
func plain(path string, v reflect.Value) any {
	switch x := v.Interface().(type) {
	case encoding.TextMarshaler:
		text, err := x.MarshalText()
		if err != nil {
			panic("configuration field " + path + ": " + err.Error()) // it was read from text
		}
		return escape(string(text))
	case time.Duration:
		return shortDuration(x)
	}
	switch {
	case path == namesPath:
		return plainNames(v.Interface().([]string))
	case path == carbonPath && v.Kind() == reflect.Slice && isAlone(v):
		return plain(path, v.Index(0))
	case v.Kind() == reflect.Struct:
		section := yaml.MapSlice{}
		for key, field := range fields(v) {
			section = append(section, yaml.MapItem{Key: key, Value: plain(join(path, key), field)})
		}
		return section
	case v.Kind() == reflect.Slice:
		list := make([]any, v.Len())
		for i := range list {
			list[i] = plain(path+"[]", v.Index(i))
		}
		return list
	case v.Kind() == reflect.String:
		return escape(v.String())
	}
	return v.Interface()
}

// escape keeps a dollar from being read as the start of a variable.
func escape(s string) string { return strings.ReplaceAll(s, "$", "$$") }

// shortDuration writes d without the zero units of its String: 10m, not 10m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// namesPath is the key of the list of names, which has three forms: the word
// mountains, a list, or a prefix with a count.
const namesPath = "membership.names"

// numbered is the third form: web-1 … web-200.
type numbered struct {
	Prefix string `yaml:"prefix"`
	Count  int    `yaml:"count"`
}

// maxCount bounds a numbered list: a claim may need a transaction per 120.
const maxCount = 10000

// readNames is the form of namesPath; v is a []string.
func readNames(d *decoder, path string, n ast.Node, v reflect.Value) {
	switch n.(type) {
	case *ast.SequenceNode:
		d.list(path, n, v)
	case *ast.MappingNode:
		var form numbered
		before := len(d.problems)
		d.section(path, n, reflect.ValueOf(&form).Elem())
		if len(d.problems) > before {
			return
		}
		if form.Count < 1 || form.Count > maxCount {
			d.addf(join(path, "count"), d.nearest(join(path, "count")), fmt.Sprintf("1 to %d", maxCount), "count %d is out of range", form.Count)
			return
		}
		v.Set(reflect.ValueOf(membership.PrefixedNumerics(form.Prefix, form.Count)))
	default:
		var word string
		d.scalar(path, n, reflect.ValueOf(&word).Elem())
		if word != "mountains" {
			d.wrongf(path, n, "mountains, [Denali, MtLogan] or {prefix: web-, count: 200}", "want a list of names, got %s", describe(n))
			return
		}
		v.Set(reflect.ValueOf(membership.Mountains()))
	}
}

// plainNames returns the shortest form of a list of names.
func plainNames(names []string) any {
	if slices.Equal(names, membership.Mountains()) {
		return "mountains"
	}
	if len(names) > 0 {
		prefix := strings.TrimSuffix(names[0], "1")
		if slices.Equal(names, membership.PrefixedNumerics(prefix, len(names))) {
			return yaml.MapSlice{{Key: "prefix", Value: escape(prefix)}, {Key: "count", Value: len(names)}}
		}
	}
	return names
}

// carbonPath is the key of the destinations of Carbon, which has two forms: a list, or
// one that is alone.
const carbonPath = "forward.carbon"

// readDestinations is the form of carbonPath; v is a []proxy.CarbonForward, whose first
// has the defaults of each.
func readDestinations(d *decoder, path string, n ast.Node, v reflect.Value) {
	var defaults proxy.CarbonForward
	if v.Len() > 0 {
		defaults = v.Index(0).Interface().(proxy.CarbonForward)
	}
	list, isList := n.(*ast.SequenceNode)
	if !isList {
		one := []proxy.CarbonForward{defaults}
		d.section(path, n, reflect.ValueOf(one).Index(0))
		v.Set(reflect.ValueOf(one))
		return
	}
	all := slices.Repeat([]proxy.CarbonForward{defaults}, len(list.Values))
	for i, element := range list.Values {
		at := fmt.Sprintf("%s[%d]", path, i)
		d.places[at] = placeOf(element)
		d.section(at, element, reflect.ValueOf(all).Index(i))
	}
	v.Set(reflect.ValueOf(all))
}

// isAlone says whether v, the destinations of Carbon, is one without a name.
func isAlone(v reflect.Value) bool {
	all := v.Interface().([]proxy.CarbonForward)
	return len(all) == 1 && all[0].Name == ""
}
