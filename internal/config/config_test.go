package config

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// testEnv stands for the environment of a test.
func testEnv(name string) (string, bool) {
	value, ok := map[string]string{"POOL": "blue", "COUNT": "3", "DOLLAR": "$$", "EMPTY": "", "NULL": "null", "LATIN": "\xff"}[name]
	return value, ok
}

// complete has what has no default; the text of each case follows it.
const complete = `etcd: {endpoints: [http://127.0.0.1:2379]}
forward: {statsd: {to: [udp://statsd:8125]}, carbon: {to: [tcp://graphite:2003]}}
`

func mustParse(t *testing.T, text string) Config {
	t.Helper()
	cfg, err := Parse("test.yaml", []byte(text), Default(), testEnv)
	if err != nil {
		t.Fatalf("%s\nin:\n%s", err, text)
	}
	return cfg
}

// tell returns all that err has for people.
func tell(err error) (told string) {
	all, _ := errors.AsType[Error](err)
	for _, mistake := range all {
		told += mistake.Error() + "\n" + mistake.Hint + "\n"
	}
	return told
}

func readExample(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../config.example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestExampleHoldsEveryKeyAndItsDefault(t *testing.T) {
	text := readExample(t)
	var cfg Config // no defaults: what the example lacks stays zero
	d := decoder{lookupEnv: testEnv}
	d.decode([]byte(text), reflect.ValueOf(&cfg).Elem())
	if len(d.problems) > 0 {
		t.Fatal(newError("config.example.yaml", d.problems))
	}
	got := slices.DeleteFunc(slices.Sorted(maps.Keys(d.places)), func(path string) bool { return strings.HasSuffix(path, "]") })
	want := slices.Sorted(slices.Values(keyPaths("", reflect.ValueOf(cfg))))
	if !slices.Equal(got, want) {
		t.Errorf("keys of the example: got %q\nwant %q", got, want)
	}

	if len(cfg.Etcd.Endpoints) == 0 || len(cfg.Proxy.Forward.StatsD.To) == 0 || len(cfg.Proxy.Forward.Carbon[0].To) == 0 {
		t.Error("the example lacks what has no default")
	}
	cfg.Etcd.Endpoints, cfg.Proxy.Forward.StatsD.To, cfg.Proxy.Forward.Carbon[0].To = nil, nil, nil
	cfg.Proxy.Telemetry = cfg.Telemetry.StatsD // no key of its own
	if defaults := Default(); !reflect.DeepEqual(cfg, defaults) {
		t.Errorf("values of the example:\ngot  %+v\nwant %+v", cfg, defaults)
	}
}

// keyPaths returns the path of each key of v and below.
func keyPaths(path string, v reflect.Value) []string {
	var paths []string
	for _, f := range fields(v) {
		at, field := join(path, f.key), f.value
		paths = append(paths, at)
		if at == carbonPath {
			field = field.Index(0)
		}
		if field.Kind() == reflect.Struct && !isText(field) {
			paths = append(paths, keyPaths(at, field)...)
		}
	}
	return paths
}

func TestExampleLoads(t *testing.T) {
	mustParse(t, readExample(t))
}

func TestConfigValues(t *testing.T) {
	for _, tt := range []struct {
		text string
		get  func(Config) any
		want any
	}{
		{"", func(c Config) any { return c.Membership.Pool }, "default"},
		{"membership:", func(c Config) any { return c.Membership.TTL }, 15 * time.Second},
		{"membership: {pool: \"${POOL}\"}", func(c Config) any { return c.Membership.Pool }, "blue"},
		{"membership:\n  pool: pre-${POOL}-post", func(c Config) any { return c.Membership.Pool }, "pre-blue-post"},
		{"membership:\n  owner: $${POOL} costs $5", func(c Config) any { return c.Membership.Owner }, "${POOL} costs $5"},
		{"membership:\n  owner: ${DOLLAR}{POOL}", func(c Config) any { return c.Membership.Owner }, "$${POOL}"}, // a value is not replaced again
		{"membership:\n  owner: a${EMPTY}b", func(c Config) any { return c.Membership.Owner }, "ab"},
		{"membership:\n  owner: 'it''s \"us\"'", func(c Config) any { return c.Membership.Owner }, `it's "us"`},
		{"membership:\n  owner: >-\n    two\n    lines", func(c Config) any { return c.Membership.Owner }, "two lines"},
		{"membership:\r\n  ttl: 20s\r\n", func(c Config) any { return c.Membership.TTL }, 20 * time.Second},
		{"\ufeffmembership:\n  ttl: 20s", func(c Config) any { return c.Membership.TTL }, 20 * time.Second},
		{"membership: {names: mountains}", func(c Config) any { return len(c.Membership.Names) }, 100},
		{"membership: {names: [b, a]}", func(c Config) any { return c.Membership.Names }, []string{"b", "a"}},
		{"membership: {names: [b, a]}", func(c Config) any { return c.Proxy.Rewrite.Names }, []string{"b", "a"}},
		{"membership: {names: {prefix: web-, count: 2}}", func(c Config) any { return c.Membership.Names }, []string{"web-1", "web-2"}},
		{"membership: {names: {prefix: web-, count: \"${COUNT}\"}}", func(c Config) any { return len(c.Membership.Names) }, 3},
		{"membership: {on_stop: keep}", func(c Config) any { return c.Membership.OnStop }, membership.Keep},
		{"coalesce: 0", func(c Config) any { return c.Proxy.Coalesce }, time.Duration(0)},
		{"listen: {max_connections: 7}", func(c Config) any { return c.Proxy.Listen.MaxConnections }, 7},
		{"listen: {carbon: []}", func(c Config) any { return len(c.Proxy.Listen.Carbon) }, 0},
		{"listen: {carbon: []}", func(c Config) any { return len(c.Proxy.Listen.StatsD) }, 2},
		{"telemetry: {statsd: false}", func(c Config) any { return c.Telemetry.StatsD }, false},
		{"admin: {listen: \"\"}", func(c Config) any { return c.Admin.Listen }, ""},
	} {
		text := tt.text
		if !strings.HasPrefix(text, "\ufeff") {
			text = complete + text
		} else {
			text += "\n" + complete
		}
		if got := tt.get(mustParse(t, text)); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: got %#v, want %#v", tt.text, got, tt.want)
		}
	}
}

// Addresses have colons, which YAML takes for keys if it can.
func TestAddressesNeedNoQuotes(t *testing.T) {
	for _, tt := range []struct {
		to   string
		want string
	}{
		{"{to: [tcp://a:1]}", "tcp://a:1"},
		{"{to: [tcp://a:1, tcp://b:2], queue: 2MiB}", "tcp://a:1 tcp://b:2"},
		{"{to: [stdout:]}", "stdout:"},
		{"{to: [stdout:], queue: 2MiB}", "stdout:"},
		{"{to: [ tcp://a:1 , stdout: ]}", "tcp://a:1 stdout:"},
		{"{to: [\n  tcp://a:1,\n  stdout:\n  ]}", "tcp://a:1 stdout:"},
		{"\n    to: [tcp://a:1, stdout:]", "tcp://a:1 stdout:"},
		{"\n    to:\n    - tcp://a:1\n    - stdout:\n", "tcp://a:1 stdout:"},
		{"\n    to:\n      - stdout:\n      - tcp://a:1\n    queue: 2MiB", "stdout: tcp://a:1"},
		{"{to: [\"tcp://[::1]:1\"]}", "tcp://[::1]:1"},
		{"{to: ['stdout:']}", "stdout:"},
	} {
		cfg := mustParse(t, "etcd: {endpoints: [localhost:2379]}\nlisten: {statsd: []}\nforward:\n  carbon: "+tt.to)
		var got []string
		for _, a := range cfg.Proxy.Forward.Carbon[0].To {
			got = append(got, a.String())
		}
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%q: got %q, want %q", tt.to, got, tt.want)
		}
		if cfg.Etcd.Endpoints[0] != "localhost:2379" {
			t.Errorf("endpoint: got %q, want %q", cfg.Etcd.Endpoints[0], "localhost:2379")
		}
	}
}

// Each text has the given problems (by their beginnings), and no others.
func TestConfigProblems(t *testing.T) {
	for _, tt := range []struct {
		text string // behind the two lines of complete
		want []string
	}{
		{"membershp: {}", []string{`3:1: membershp: unknown key "membershp"`}},
		{"listen: {max_conections: 5, idle_timeout: 1m}", []string{`3:10: listen.max_conections: unknown key "max_conections"`}},
		{"1: 2", []string{`3:1: 1: unknown key "1"`}},
		{"? [a]\n: 1", []string{`3:3: a list can't be a key`}},
		{"coalesce: 1ms\ncoalesce: 2ms\ncoalesce: 3ms", []string{
			`4:1: coalesce: duplicate key "coalesce", first on line 3`,
			`5:1: coalesce: duplicate key "coalesce", first on line 3`,
		}},
		{"etcd: {}", []string{`3:1: etcd: duplicate key "etcd", first on line 1`}},
		{"membership: [a]", []string{`3:13: membership: want a section, got a list`}},
		{"membership: text", []string{`3:13: membership: want a section, got text`}},
		{"membership:\n  pool: [a]", []string{`4:9: membership.pool: want a single value, got a list`}},
		{"membership:\n  pool: {a: b}", []string{`4:9: membership.pool: want a single value, got a section`}},
		{"membership:\n  pool:\n    a: b", []string{`5:5: membership.pool: want a single value, got a section`}},
		{"membership:\n  pool:", []string{`4:3: membership.pool: want a single value, got nothing`}},
		{"membership:\n  pool: ~", []string{`4:9: membership.pool: want a single value, got nothing`}},
		{"membership:\n  pool: 5", []string{`4:9: membership.pool: want a string, got a number`}},
		{"membership:\n  pool: true", []string{`4:9: membership.pool: want a string, got a boolean`}},
		{"membership:\n  pool: .inf", []string{`4:9: membership.pool: want a string, got a fraction`}},
		{"membership:\n  pool: \"\"", []string{`4:9: membership.pool: pool "" is not usable`}},
		{"membership:\n  ttl: 15", []string{`4:8: membership.ttl: want a duration, got a number`}},
		{"membership:\n  ttl: 1s", []string{`4:8: membership.ttl: ttl 1s is out of range`}},
		{"membership:\n  on_stop: later", []string{`4:12: membership.on_stop: on_stop "…" is unknown`}},
		{"membership:\n  names: hills", []string{`4:10: membership.names: want a list of names, got text`}},
		{"membership:\n  names: []", []string{`4:3: membership.names: the list of names is empty`}},
		{"membership:\n  names: [a, b c, a, 7]", []string{
			`4:14: membership.names[1]: name "…" is not usable`,
			`4:19: membership.names[2]: name "a" is in the list already`,
			`4:22: membership.names[3]: want a string, got a number`,
		}},
		{"membership:\n  names: [a, b c, a]", []string{
			`4:14: membership.names[1]: name "…" is not usable`,
			`4:19: membership.names[2]: name "a" is in the list already`,
		}},
		{"membership:\n  names: {prefix: w, count: 0}", []string{`4:29: membership.names.count: count 0 is out of range`}},
		{"membership:\n  names: {prefix: w}", []string{`4:3: membership.names.count: count 0 is out of range`}},
		{"membership:\n  names: {prefix: w, count: 1000000000}", []string{`4:29: membership.names.count: count 1000000000 is out of range`}},
		{"membership:\n  names: {prefix: \"a b\", count: 0}", []string{`4:19: membership.names.prefix: prefix "…" is not usable`, `4:33: membership.names.count: count 0 is out of range`}},
		{"membership:\n  names: {prefix: \"a b\", count: 1}", []string{`4:19: membership.names.prefix: prefix "…" is not usable`}},
		{"membership:\n  names: {prefix: w, cont: 3}", []string{`4:22: membership.names.cont: unknown key "cont"`}},
		{"membership:\n  names: [host]", []string{`1:1: rewrite.from: "host" is a name of the list too`}},
		{"membership:\n  names: [host]\nrewrite:\n  unmatched: drop", []string{`5:1: rewrite.from: "host" is a name of the list too`}},
		{"membership:\n  names: [web]\nrewrite: {from: web}", []string{`5:17: rewrite.from: "web" is a name of the list too`}},
		{"rewrite: {to: \"{nam}\"}", []string{`3:15: rewrite.to: `}},
		{"rewrite: {unmatched: lose}", []string{`3:22: rewrite.unmatched: "…"`}},
		{"listen: {max_connections: 0}", []string{`3:27: listen.max_connections: max_connections 0 is out of range`}},
		{"listen: {max_connections: 1.5}", []string{`3:27: listen.max_connections: want a whole number, got a fraction`}},
		{"listen: {max_connections: \"7\"}", []string{`3:27: listen.max_connections: want a whole number, got text`}},
		{"listen:\n  max_connections: ${NULL}", []string{`4:20: listen.max_connections: want a whole number, got text, with its variables replaced`}},
		{"admin:\n  badlines: ${NULL}", []string{`4:13: admin.badlines: want true or false, got text, with its variables replaced`}},
		{"membership:\n  ttl: ${COUNT}", []string{`4:8: membership.ttl: want a duration, got text, with its variables replaced`}},
		{"listen: {max_connections: 0x10}", []string{`3:27: listen.max_connections: want a whole number, got a number`}},
		{"listen: {statsd: [{udp: 1}]}", []string{`3:19: listen.statsd[0]: want a single value, got a section`}},
		{"listen: {statsd: [null]}", []string{`3:19: listen.statsd[0]: want a single value, got nothing`}},
		{"listen: {statsd: [udp://localhost:8125, udp://localhost:8125]}", []string{`3:41: listen.statsd[1]: udp://localhost:8125 would take the socket of listen.statsd[0]`}},
		{"\"password=pw\": 1", []string{`3:1: password=…: unknown key "password=…"`}},
		{"etcd-user pw@etcd: 1", []string{`3:1: etcd-user …: unknown key "etcd-user …"`}},
		{"telemetry: {statsd: yes}", []string{`3:21: telemetry.statsd: want true or false, got text`}},
		{"telemetry: {statsd: \"true\"}", []string{`3:21: telemetry.statsd: want true or false, got text`}},
		{"admin: {listen: nowhere}", []string{`3:17: admin.listen: "…" is not host:port`}},
		{"coalesce: ${NONE}", []string{`3:11: coalesce: the environment variable NONE is not set`}},
		{"membership:\n  owner: ${NONE}${NONE2}", []string{
			`4:10: membership.owner: the environment variable NONE is not set`,
			`4:10: membership.owner: the environment variable NONE2 is not set`,
		}},
		{"listen: {statsd: [\"unix:///run/${LATIN}\"]}", []string{`3:19: listen.statsd[0]: the environment variable LATIN is not UTF-8`}},
		{"membership:\n  owner: ${NO-NE}", []string{`4:10: membership.owner: a dollar that begins no variable`}},
		{"membership:\n  owner: $(hostname)", []string{`4:10: membership.owner: a dollar that begins no variable`}},
		{"membership:\n  owner: ${POOL", []string{`4:10: membership.owner: a dollar that begins no variable`}},
		{"listen: {statsd: [unix:///a/s?group=-1]}", []string{`3:19: listen.statsd[0]: "…" is no group`}},
		{"listen: {carbon: [tcp://localhost:2003, \"tcp://[::]:2003\"]}", []string{`3:41: listen.carbon[1]: tcp://[::]:2003 would take the socket of listen.carbon[0]`}},
		{"admin: {listen: 127.0.0.1:2003}", []string{`3:17: admin.listen: 127.0.0.1:2003 would take the socket of the listener tcp://localhost:2003`}},
		{"coalesce: &a 5ms", []string{`3:11: coalesce: anchors, aliases and tags are not supported`}},
		{"coalesce: !!str 5ms", []string{`3:11: coalesce: anchors, aliases and tags are not supported`}},
		{"<<: {coalesce: 5ms}", []string{`3:1: <<: unknown key "<<"`}},
		{"---\ncoalesce: 5ms", []string{`3:1: the file contains more than one YAML document`}},
		{"coalesce: [", []string{`3:12: did not find expected node content`}},
		{"#\r\ncoalesce: x", []string{`4:11: coalesce: want a duration, got text`}},
		{"a: b: c", []string{`3:5: mapping values are not allowed in this context`}},
		{"coalesce: *b", []string{`3:11: anchors, aliases and tags are not supported`}},
		{"coalesce: \x01", []string{`3:11: the file contains a control character`}},
		{"coalesce: \u009b", []string{`3:11: the file contains a control character`}},
		{"coalesce: \uffff", []string{`3:11: the file contains a control character`}},
		{"admin: {listen: \"tcp://user:pw@a:1\"}", []string{`3:17: admin.listen: "…" is not host:port`}},
		{"coalesce: 5ms \xff", []string{`3:15: the file is not UTF-8`}},
	} {
		_, err := Parse("f", []byte(complete+tt.text), Default(), testEnv)
		if err == nil {
			t.Errorf("%q: got no problem, want %q", tt.text, tt.want)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		if !slices.EqualFunc(got, tt.want, func(got, want string) bool { return strings.HasPrefix(got, "f:"+want) }) {
			t.Errorf("%q:\ngot  %q\nwant %q", tt.text, got, tt.want)
		}
	}
}

// Each text has one problem, with the given remedy, which leads to no further problem.
func TestConfigRemedies(t *testing.T) {
	const etcd, statsd = "etcd: {endpoints: [http://e:2379]}\n", "  statsd: {to: [udp://s:8125]}\n"
	for _, tt := range []struct{ text, problem, remedy string }{
		{etcd + "forward:\n" + statsd + "  carbon: [null]", `4:12: forward.carbon[0].to: no upstream`, "to: [tcp://"},
		{etcd + "forward:\n" + statsd + "  carbon: [{to: tcp://a:1}]", `4:17: forward.carbon[0].to: want a list`, "in brackets"},
		{etcd + "forward:\n" + statsd + "  carbon: [{to: [tcp://a:1], queue: 1}]", `4:37: forward.carbon[0].queue: queue 1 is too small`, "1MiB"},
		{etcd + "forward:\n" + statsd + "  carbon: [{name: a, to: [tcp://a:1]}, {to: [tcp://b:1]}]", `4:40: forward.carbon[1].name: of several`, "name: graphite2"},
		{etcd + "forward:\n" + statsd + "  carbon: {to: [tcp://localhost:8127]}", `4:17: forward.carbon.to[0]: tcp://localhost:8127 is our own page`, "another port"},
		{etcd + "forward:\n" + statsd + "  carbon: {to: [tcp://a:1], tls: {cert: /c, key: /k}}", `4:17: forward.carbon.to[0]: tcp://a:1 is not encrypted`, "tls://a:1"},
		{etcd + "forward:\n" + statsd + "  carbon: {to: [tls://a:1], tls: {server_name: a b}}", `4:48: forward.carbon.tls.server_name: "…" is no host`, "as its certificate has it"},
		{etcd + "forward:\n  carbon: {to: [tcp://a:1]}\n  statsd: {to: [udp://s:8125], tls: {ca: /c}}", `4:32: forward.statsd.tls: tls is given`, "remove it"},
		{etcd + "forward:\n  carbon: {to: [tcp://a:1]}\n  statsd: {to: ['udp://:8125']}", `4:17: forward.statsd.to[0]: udp://:8125 names no host`, "host and port"},
		{etcd + "forward:\n  carbon: {to: ['tcp://${POOL}']}\n" + statsd, `3:17: forward.carbon.to[0]: "…" is not host:port, with its variables replaced`, "tcp://graphite:2003"},
		{etcd + "forward: {statsd: {to: carbon:}}", `2:30: did not find`, "needs quotes"},
		{etcd + "forward: {statsd: {to: [udp://[::1]:8125, udp://b:1]}}", `2:31: did not find`, "needs quotes"},
		{"etcd: {endpoints: [http://[::1]:2379]}", `1:27: did not find`, "needs quotes"},
		{"etcd: {endpoints: [https://e:2379], tls: {ca_file: /c}}\nlisten: {statsd: [], carbon: [tcp://:1]}\nforward: {carbon: {to: [tcp://a:1]}}", `1:43: etcd.tls.ca_file: unknown key`, "valid here: ca,"},
		{complete + "membership: {names: [host, b]}", `1:1: rewrite.from: "host" is a name`, "like here"},
		{complete + "membership: {names: {prefix: " + strings.Repeat("x", 60) + ", count: 100}}", `3:30: membership.names.prefix: prefix`, "at most 59"},
		{complete + "rewrite: {to: '{name}.{name}'}", `3:15: rewrite.to: "{name}.{name}" holds {name} 2 times`, "{name} or"},
		{complete + "rewrite: {to: '{Name}'}", `3:15: rewrite.to: "{Name}" holds {name} 0 times`, "{name} or"},
		{complete + "membership:\n  owner: {{ .Node }}", `4:10: membership.owner: want a single value`, "quotes"},
		{complete + "membership.owner: a", "3:1: membership.owner: unknown key", "membership: {owner: …}"},
		{complete + "etcd.tls.ca: /c", "3:1: etcd.tls.ca: unknown key", "etcd: {tls: {ca: …}}"},
		{"%YAML 1.2\n---\n" + complete, "1:1: found incompatible", "remove the line"},
		{"[etcd]\nendpoints = e\n", "2:1: did not find expected <document start>", "the file must be YAML"},
		{complete + "\"a\\nb\\u001b\": 1", "3:1: a\ufffdb\ufffd: unknown key", "valid here"},
		{complete + "listen: {statsd: ['unix://@name']}", `3:19: listen.statsd[0]: "…" is not an absolute path`, "unix:///"},
		{complete + "coalesce: 5ms\n\ufeffadmin: {}", "4:1: the file contains a byte order mark", "UTF-8"},
		{complete + "membership:\u00a0{pool: a}", "3:1: membership:", "looks like a space"},
		{"forward:\n\u00a0\u00a0statsd: {}\n  carbon: {}", "3:3: ", "looks like a space"},
		{complete + "rewrite:\n  to: {name} \u2013", "4:14: ", "looks like a space"},
		{complete + "coalesce: *b", `3:11: anchors, aliases`, "the value itself"},
		{complete + "größe: 1", `3:1: größe: unknown key "größe"`, "valid here"},
	} {
		_, err := Parse("f", []byte(tt.text), Default(), testEnv)
		bad, _ := errors.AsType[Error](err)
		if len(bad) != 1 {
			t.Errorf("%q:\ngot  %v\nwant %q, alone", tt.text, err, tt.problem)
			continue
		}
		if got := bad[0].Hint; !strings.HasPrefix(err.Error(), "f:"+tt.problem) || !strings.Contains(got, tt.remedy) {
			t.Errorf("%q:\ngot  %q, hint %q\nwant %q, hint with %q", tt.text, err, got, tt.problem, tt.remedy)
		}
	}
}

// A file that somebody else wrote costs neither time nor memory: each of these did
// once, or would. What is not refused at once has many problems.
func TestHostileConfigs(t *testing.T) {
	var deep strings.Builder
	for i := range 600 {
		fmt.Fprintf(&deep, "%*sa:\n", i, "")
	}
	var files, ports, local strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&files, "unix:///run/a/b/c/d%d, ", i)
		fmt.Fprintf(&ports, "tcp://0.0.0.0:2003, ")
		fmt.Fprintf(&local, "tcp://127.0.%d.%d:2003, ", i/250, i%250)
	}
	for name, text := range map[string]string{
		"sockets":     complete + "listen: {statsd: [" + files.String() + "], carbon: [" + files.String() + "]}",
		"own sockets": "etcd: {endpoints: [http://e:2379]}\nlisten: {carbon: [" + files.String() + "]}\nforward: {carbon: {to: [" + files.String() + "]}}",
		"own ports":   "etcd: {endpoints: [http://e:2379]}\nlisten: {carbon: [" + ports.String() + "]}\nforward: {carbon: {to: [" + local.String() + "]}}",
		"brackets":    strings.Repeat("[", 100_000), "braces": strings.Repeat("{a:", 20_000), "dashes": strings.Repeat("- ", 100_000),
		"question marks": strings.Repeat("? ", 100_000), "tags": strings.Repeat("! ", 100_000), "anchors": strings.Repeat("&a ", 80_000),
		"aliases": "a: &a [x]\n" + strings.Repeat("b: *a\n", 40_000), "a bomb": "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b,*b]\n",
		"keys": strings.Repeat("a: 1\n", 50_000), "one line": "a: " + strings.Repeat("x ", 120_000), "quoted lines": "a: \"" + strings.Repeat("x\n\n", 80_000),
		"keys of a line": "{" + strings.Repeat("key, ", 30_000) + "}", "addresses": "listen: {statsd: [" + strings.Repeat("x,", 60_000) + "]}",
		"variables": "membership: {owner: '" + strings.Repeat("${POOL}", 30_000) + "'}", "a key": strings.Repeat("x", 200_000) + ": 1",
		"a secret in each key": "etcd: {" + strings.Repeat("password: 'p w', ", 10_000) + "}", "listeners": complete + "listen: {statsd: [" + strings.Repeat("udp://a:1, ", 20_000) + "]}",
		"depth": deep.String(), "odd characters": strings.Repeat("\ufffd", 80_000), "size": strings.Repeat("#", 10<<20),
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := Parse("f", []byte(text), Default(), testEnv)
			told := tell(err)
			runtime.ReadMemStats(&after)
			if err == nil {
				t.Error("it loads")
			}
			if len(told) > 64<<10 {
				t.Errorf("%d KiB are told", len(told)>>10)
			}
			if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 && !raceDetector { // which gives less memory back
				t.Errorf("%d MiB for %d KiB", used>>20, len(text)>>10)
			}
		})
	}
}

// FuzzConfig: whatever the file contains, nothing panics; every problem has a place in the file and a
// text; and what loads is written so that it loads again.
func FuzzConfig(f *testing.F) {
	for _, seed := range []string{
		"", complete, complete + "membership: {names: {prefix: web-, count: 2}, owner: \"${POOL}\"}\n",
		"membership:\n  names:\n  - a\n  - b\ncoalesce: 0\nrewrite: {to: \"servers.{name}\"}\n" + complete,
		"a: &x [1, *x]\n? b\n: |\n  c\n<<: {d: !!int 1}\n--- # e\n%YAML 1.2\n...\n",
		"etcd: {endpoints: [stdout:, a:1, {b:2}, \"c\":3]}", "\ufeff{", "listen:\n\t- x", "coalesce: ${", "\r\n\xff", "\r0", "0\n---", "#\r\n 0", "a:\n}", "\uffff", "a: \ufffe",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		cfg, err := Parse("f", text, Default(), testEnv)
		if err != nil {
			checkProblems(t, text, err)
			return
		}
		written, err := cfg.YAML()
		if err != nil {
			t.Fatalf("write what was loaded from %q: %v", text, err)
		}
		again, err := Parse("written", written, Default(), testEnv)
		if err != nil {
			t.Fatalf("load what was written: %v\n%s", err, written)
		}
		if !reflect.DeepEqual(again, cfg) {
			t.Fatalf("got  %+v\nwant %+v\nfrom:\n%s", again, cfg, written)
		}
	})
}

func checkProblems(t *testing.T, text []byte, err error) {
	bad, ok := errors.AsType[Error](err)
	if !ok || len(bad) == 0 {
		t.Fatalf("got %v, want problems", err)
	}
	lines := len(lineEnd.Split(string(text), -1))
	for _, p := range bad {
		var line, column int
		var what string
		if n, _ := fmt.Sscanf(p.Error(), "f:%d:%d: %s", &line, &column, &what); n < 3 && !strings.Contains(p.Error(), "problems more") || line > lines {
			t.Errorf("problem %q of %q is not in the file or says nothing", p, text)
		}
	}
}

// What YAML writes is read back as the same configuration.
func TestYAMLRoundTrip(t *testing.T) {
	for _, change := range []func(*Config){
		func(c *Config) {},
		func(c *Config) { c.Membership.Owner = "$HOME ${POOL} $$" },
		func(c *Config) { c.Membership.Owner = "a: b # c" },
		func(c *Config) { c.Membership.Owner = " padded " },
		func(c *Config) { c.Membership.Owner = `"quoted' \ {x} [y] & * ! | > % @` },
		func(c *Config) { c.Membership.Pool = "123" },
		func(c *Config) { c.Membership.Pool = "true" },
		func(c *Config) { c.Membership.Pool = "null" },
		func(c *Config) { c.Membership.Pool = "0x1f" },
		func(c *Config) { c.Membership.Pool = "1e3" },
		func(c *Config) { c.Membership.Pool = "-" },
		func(c *Config) { c.Membership.StateDir = "/büro/a\tb\nc" },
		func(c *Config) { c.Membership.Names = []string{"yes", "no", "1", "null"} },
		func(c *Config) { c.Membership.Names = membership.PrefixedNumerics("1", 3) },
		func(c *Config) { c.Membership.Names = membership.PrefixedNumerics("", 3) },
		func(c *Config) { c.Membership.Names = []string{"web-1"} },
		func(c *Config) { c.Membership.TTL = 90 * time.Minute / 2 },
		func(c *Config) { c.Membership.TTL = time.Hour },
		func(c *Config) { c.Proxy.Coalesce = 1500 * time.Microsecond },
		func(c *Config) { c.Proxy.Listen.IdleTimeout = 0 },
		func(c *Config) { c.Proxy.Listen.StatsD = []proxy.Address{} },
		func(c *Config) {
			c.Proxy.Listen.StatsD = []proxy.Address{{Network: "unixgram", Path: "/run/s", Mode: 0o660, Group: "adm"}, {Network: "udp", Host: "::1", Port: 1}}
		},
		func(c *Config) {
			c.Proxy.Forward.StatsD.To = []proxy.Upstream{{Address: proxy.Address{Network: "stdout"}}}
		},
		func(c *Config) { c.Proxy.Forward.Carbon[0].Queue = 1<<20 + 1 },
		func(c *Config) { c.Proxy.Forward.Carbon[0].Name = "main" },
		func(c *Config) {
			second := c.Proxy.Forward.Carbon[0]
			c.Proxy.Forward.Carbon[0].Name, second.Name, second.Spool = "main", "dr", 0
			c.Proxy.Forward.Carbon = append(c.Proxy.Forward.Carbon, second)
		},
		func(c *Config) { c.Admin.Listen = "" },
		func(c *Config) { c.Admin.BadLines = false },
	} {
		want := mustParse(t, complete)
		change(&want)
		want.Proxy.Rewrite.Names = want.Membership.Names
		text, err := want.YAML()
		if err != nil {
			t.Fatal(err)
		}
		if got := mustParse(t, string(text)); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v\nfrom:\n%s", got, want, text)
		}
	}
}
