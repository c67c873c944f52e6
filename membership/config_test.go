package membership

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

func TestDefaultConfigIsValid(t *testing.T) {
	if err := DefaultConfig().Validate(); err != nil {
		t.Error(err)
	}
}

func TestProblems(t *testing.T) {
	for _, test := range []struct {
		path string
		set  func(c *Config)
	}{
		{"membership.pool", func(c *Config) { c.Pool = "" }},
		{"membership.pool", func(c *Config) { c.Pool = "a/b" }},
		{"membership.pool", func(c *Config) { c.Pool = strings.Repeat("p", 65) }},
		{"membership.owner", func(c *Config) { c.Owner = "Hömer" }},
		{"membership.owner", func(c *Config) { c.Owner = "two\nlines" }},
		{"membership.owner", func(c *Config) { c.Owner = strings.Repeat("o", 256) }},
		{"membership.names", func(c *Config) { c.Names = nil }},
		{"membership.names[1]", func(c *Config) { c.Names = []string{"Denali", "Mt.Logan"} }},
		{"membership.names[2]", func(c *Config) { c.Names = []string{"Denali", "MtLogan", "Denali"} }},
		{"membership.ttl", func(c *Config) { c.TTL = 4 * time.Second }},
		{"membership.ttl", func(c *Config) { c.TTL = 5500 * time.Millisecond }},
		{"membership.ttl", func(c *Config) { c.TTL = 2 * time.Hour }},
		{"membership.on_stop", func(c *Config) { c.OnStop = "explode" }},
		{"membership.state_dir", func(c *Config) { c.StateDir = "" }},
	} {
		c := DefaultConfig()
		test.set(&c)
		ps, _ := errors.AsType[conf.Problems](c.Validate())
		if len(ps) != 1 || ps[0].Path != test.path || ps[0].Hint == "" {
			t.Errorf("got %+v, want one problem at %s with a hint", ps, test.path)
		}
	}
}

func TestNames(t *testing.T) {
	table := MountainTable()
	if len(table) != 100 {
		t.Fatalf("got %d mountains, want 100", len(table))
	}
	for i, m := range table {
		if m.Rank != i+1 || m.Identifier != Mountains()[i] || m.Name == "" || m.Region == "" {
			t.Errorf("mountain %d: got %+v", i, m)
		}
		if i > 0 && m.Elevation > table[i-1].Elevation {
			t.Errorf("%s (%d m) is higher than %s before it", m.Identifier, m.Elevation, table[i-1].Identifier)
		}
	}
	if got, want := PrefixedNumerics("web-", 3), []string{"web-1", "web-2", "web-3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := PrefixedNumerics("web-", -1); len(got) != 0 {
		t.Errorf("a negative count: got %q, want none", got)
	}
}

func TestShowOwner(t *testing.T) {
	for owner, want := range map[string]string{
		"homer, sector 7G": "homer, sector 7G",
		"a\x1b[31m":        `"a\x1b[31m"`,
		"Hömer":            `"H\u00f6mer"`,
	} {
		if got := showOwner(owner); got != want {
			t.Errorf("%q: got %s, want %s", owner, got, want)
		}
	}
	if got := len(showOwner(strings.Repeat("o", 1000))); got != maxOwnerBytes+2 {
		t.Errorf("a long owner is shown in %d bytes, want %d", got, maxOwnerBytes+2)
	}
}
