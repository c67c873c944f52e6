package proxy

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]Address{
		"udp://localhost:8125":                       {Network: "udp", Host: "localhost", Port: 8125},
		"tcp://[::1]:2003":                           {Network: "tcp", Host: "::1", Port: 2003},
		"tcp://:2003":                                {Network: "tcp", Port: 2003},
		"unix:///run/s.sock":                         {Network: "unix", Path: "/run/s.sock"},
		"unixgram:///run/s.sock?group=adm&mode=0660": {Network: "unixgram", Path: "/run/s.sock", Mode: 0o660, Group: "adm"},
		"stdout:":                                    {Network: "stdout"},
	} {
		got, err := ParseAddress(in)
		if err != nil || got != want {
			t.Errorf("ParseAddress(%q) = %+v, %v; want %+v", in, got, err, want)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which is %+v, %v", in, got, again, err)
		}
	}
	for in, hint := range map[string]string{
		"localhost:8125":               "udp://localhost:8125",
		"http://localhost":             "udp, tcp, unix",
		"udp://localhost":              "udp://localhost:8125",
		"udp://localhost:70000":        "1 to 65535",
		"tcp://::1:2003":               "brackets",
		"unix://run/s.sock":            "unix:///run",
		"unix:///run/s.sock?mode=9":    "mode=0660",
		"unix:///run/s.sock?mode=7777": "mode=0660",
		"unix:///run/s.sock?owner=me":  "mode and group",
	} {
		if _, err := ParseAddress(in); err == nil || !strings.Contains(err.Error(), hint) {
			t.Errorf("ParseAddress(%q): %v, want a remedy with %q", in, err, hint)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"udp://localhost:8125", "unix:///a?mode=0660&group=g", "stdout:", "tcp://[::1]:1", "unix:///%41?group=%20", "unix:///a?mode=006"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Errorf("%q is written as %q, which is %+v, %v", s, a, again, err)
		}
	})
}

// Each mistake is told at its key, all at once.
func TestProblems(t *testing.T) {
	address := func(s string) Address {
		a, err := ParseAddress(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	valid := func() Config {
		c := DefaultConfig()
		c.Rewrite.Names = []string{"Denali"}
		c.Forward.StatsD.To = []Upstream{{Address: Address{Network: "udp", Host: "10.0.0.1", Port: 8125}}}
		c.Forward.Carbon[0].To = []Upstream{{Address: Address{Network: "tcp", Host: "10.0.0.1", Port: 2003}}}
		return c
	}
	if ps := valid().Problems(); ps != nil {
		t.Fatalf("the valid one: %v", ps)
	}
	for want, spoil := range map[string]func(*Config){
		"rewrite.from":                func(c *Config) { c.Rewrite.From = "" },
		"rewrite.to":                  func(c *Config) { c.Rewrite.To = "servers" },
		"coalesce":                    func(c *Config) { c.Coalesce = -1 },
		"listen":                      func(c *Config) { c.Listen.StatsD, c.Listen.Carbon = nil, nil },
		"listen.statsd[1]":            func(c *Config) { c.Listen.StatsD[1] = c.Listen.StatsD[0] },
		"listen.carbon[0]":            func(c *Config) { c.Listen.Carbon[0] = address("stdout:") },
		"listen.max_connections":      func(c *Config) { c.Listen.MaxConnections = 0 },
		"listen.idle_timeout":         func(c *Config) { c.Listen.IdleTimeout = -1 },
		"forward.statsd.to":           func(c *Config) { c.Forward.StatsD.To = nil },
		"forward.carbon.to":           func(c *Config) { c.Forward.Carbon[0].To = nil },
		"forward.statsd.to[1]":        func(c *Config) { c.Forward.StatsD.To = append(c.Forward.StatsD.To, c.Forward.StatsD.To[0]) },
		"forward.carbon.to[0]":        func(c *Config) { c.Forward.Carbon[0].To[0].Network = "udp" },
		"forward.statsd.to[0]":        func(c *Config) { c.Forward.StatsD.To[0] = Upstream{Address: Address{Network: "unix", Path: "/s"}} },
		"forward.carbon.max_age":      func(c *Config) { c.Forward.Carbon[0].MaxAge = 1999 * time.Millisecond },
		"forward.carbon.tls":          func(c *Config) { c.Forward.Carbon[0].TLS.Cert = "cert.pem" },
		"forward.statsd.queue":        func(c *Config) { c.Forward.StatsD.Queue = 1 },
		"forward.carbon.queue":        func(c *Config) { c.Forward.Carbon[0].Queue = 1 },
		"forward.statsd.max_datagram": func(c *Config) { c.Forward.StatsD.MaxDatagram = 70000 },
	} {
		c := valid()
		spoil(&c)
		ps := c.Problems()
		if len(ps) != 1 || ps[0].Path != want || ps[0].Text == "" || ps[0].Hint == "" {
			t.Errorf("%s: got %q", want, ps)
		}
	}
}

// An upstream that is one of our listeners is an error.
func TestOwnListenerProblem(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		listen, to string
		own        bool
	}{
		{"udp://localhost:8125", "udp://localhost:8125", true},
		{"udp://localhost:8125", "udp://127.0.0.1:8125", true},
		{"udp://127.0.0.1:8125", "udp://localhost:8125", true},
		{"udp://0.0.0.0:8125", "udp://127.0.0.1:8125", true},
		{"udp://[::]:8125", "udp://[::1]:8125", true},
		{"udp://127.0.0.2:8125", "udp://127.0.0.1:8125", false},
		{"udp://localhost:8125", "udp://0.0.0.0:8125", true},
		{"udp://[::1]:8125", "udp://[::]:8125", true},
		{"udp://127.0.0.1:8125", "udp://[::ffff:127.0.0.1]:8125", true},
		{"unixgram:///run/a", "unixgram:///run/./a", true},
		{"unixgram:///proc/self/cwd/a", "unixgram://" + wd + "/a", true},
		{"unixgram:///run/a", "unixgram:///run/b", false},
		{"unix:///run/a", "unixgram:///run/a", false},
		{"udp://localhost:8125", "udp://127.0.0.2:8125", false},
		{"udp://localhost:8125", "udp://localhost:8126", false},
		{"tcp://localhost:8125", "udp://localhost:8125", false},
		{"udp://localhost:8125", "udp://statsd.example.net:8125", false},
	} {
		var listen Address
		var to Upstream
		listen.UnmarshalText([]byte(c.listen))
		to.UnmarshalText([]byte(c.to))
		if got := Reaches(to, listen); got != c.own {
			t.Errorf("%s reaches %s: %v", to, listen, got)
		}
		var ps conf.Problems
		checkUpstreams("to", []Upstream{to}, []string{"udp", "unixgram"}, Listen{StatsD: []Address{listen}}, &ps)
		if (len(ps) > 0) != c.own {
			t.Errorf("%s with %s: %v", to, listen, ps)
		}
	}
}
