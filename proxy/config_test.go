package proxy

import (
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// Each mistake is told at its key, all at once.
func TestProblems(t *testing.T) {
	at := func(s string) Address {
		a, err := address.Parse(s)
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
		"rewrite.from":           func(c *Config) { c.Rewrite.From = "" },
		"rewrite.to":             func(c *Config) { c.Rewrite.To = "servers" },
		"coalesce":               func(c *Config) { c.Coalesce = -1 },
		"listen":                 func(c *Config) { c.Listen.StatsD, c.Listen.Carbon = nil, nil },
		"listen.statsd[1]":       func(c *Config) { c.Listen.StatsD[1] = c.Listen.StatsD[0] },
		"listen.carbon[0]":       func(c *Config) { c.Listen.Carbon[0] = at("stdout:") },
		"listen.max_connections": func(c *Config) { c.Listen.MaxConnections = 0 },
		"listen.idle_timeout":    func(c *Config) { c.Listen.IdleTimeout = -1 },
		"forward.statsd.to":      func(c *Config) { c.Forward.StatsD.To = nil },
		"forward.carbon.to":      func(c *Config) { c.Forward.Carbon[0].To = nil },
		"forward.statsd.to[1]":   func(c *Config) { c.Forward.StatsD.To = append(c.Forward.StatsD.To, c.Forward.StatsD.To[0]) },
		"forward.carbon.to[1]": func(c *Config) {
			stdout := Upstream{Address: Address{Network: "stdout"}}
			c.Forward.Carbon[0].To = []Upstream{stdout, stdout}
		},
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
