package membership

import (
	"errors"
	"math"
	"slices"
	"strconv"
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
	names, before := Mountains(), math.MaxInt
	rows := strings.Split(strings.TrimSpace(mountainsTSV[strings.Index(mountainsTSV, "\n1\t"):]), "\n")
	if len(names) != 100 || len(rows) != 100 {
		t.Fatalf("got %d mountains of %d rows, want 100", len(names), len(rows))
	}
	for i, row := range rows {
		field := strings.Split(row, "\t")
		elevation, err := strconv.Atoi(field[3])
		if field[0] != strconv.Itoa(i+1) || field[1] != names[i] || err != nil || elevation > before {
			t.Errorf("mountain %d: got %q in the table and %q, after one of %d m", i+1, field, names[i], before)
		}
		before = elevation
	}
	if got, want := PrefixedNumerics("web-", 3), []string{"web-1", "web-2", "web-3"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := PrefixedNumerics("web-", -1); len(got) != 0 {
		t.Errorf("a negative count: got %q, want none", got)
	}
}
