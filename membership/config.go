package membership

import (
	"fmt"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// Config steers a Holder. DefaultConfig returns the defaults that the field
// comments give; Validate checks a Config.
type Config struct {
	// Pool is the set of hosts that share one list of names; default
	// "default". Hosts of different pools never meet: each pool has a Denali.
	Pool string `yaml:"pool"`

	// Owner is who we are, for people: it is what etcd shows beside the name.
	// Default "", which stands for the host name. It proves nothing: two
	// holders with one owner get two names.
	Owner string `yaml:"owner"`

	// Names is the list to claim from, in order; default Mountains. Too short
	// a list leaves hosts waiting without a name.
	Names []string `yaml:"names"`

	// TTL is the lease's time to live, in whole seconds; default 15s. A short
	// one suspends the claim at every hiccup of etcd; a long one keeps the
	// name of a host that crashed from the others for that long.
	TTL time.Duration `yaml:"ttl"`

	// OnStop is what becomes of the name when Run ends; default release.
	OnStop OnStop `yaml:"on_stop"`

	// StateDir is the path of the state directory; default /var/lib/prefixproxy.
	StateDir string `yaml:"state_dir"`
}

// OnStop says what becomes of the name when the holder ends.
type OnStop string

// The values of OnStop.
const (
	Release OnStop = "release" // free at once
	Keep    OnStop = "keep"    // the lease runs out by itself, so that a restart finds the name again
)

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Pool:     "default",
		Names:    Mountains(),
		TTL:      15 * time.Second,
		OnStop:   Release,
		StateDir: "/var/lib/prefixproxy",
	}
}

// Validate returns what is wrong with the configuration, all of it, a line each:
// what the zero Config lacks, too.
func (c Config) Validate() error {
	var ps conf.Problems
	checkName("membership.pool", "pool", c.Pool, &ps)
	if !pool.IsOwner(c.Owner) {
		ps.Addf("membership.owner", fmt.Sprintf("printable ASCII, at most %d bytes", pool.MaxOwnerBytes), "owner %s is not usable", pool.ShowOwner(c.Owner))
	}
	checkNames(c.Names, &ps)
	switch {
	case c.TTL < pool.MinTTL || c.TTL > pool.MaxTTL:
		ps.Addf("membership.ttl", "5s to 1h; 15s suits most", "ttl %v is out of range", c.TTL)
	case c.TTL%time.Second != 0:
		ps.Addf("membership.ttl", fmt.Sprintf("ttl: %v", c.TTL.Round(time.Second)), "ttl %v is not in whole seconds, and etcd counts leases in whole seconds", c.TTL)
	}
	if c.OnStop != Release && c.OnStop != Keep {
		ps.Addf("membership.on_stop", "release or keep", "on_stop %q is unknown", c.OnStop)
	}
	switch {
	case c.StateDir == "":
		ps.Addf("membership.state_dir", "state_dir: /var/lib/prefixproxy", "state_dir is empty")
	case c.StateDir[0] == '~':
		ps.Addf("membership.state_dir", "state_dir: ${HOME}"+strings.TrimLeft(c.StateDir, "~"), "state_dir %q begins with ~, which only a shell replaces", c.StateDir)
	case strings.IndexByte(c.StateDir, 0) >= 0:
		ps.Addf("membership.state_dir", "state_dir: /var/lib/prefixproxy", "state_dir %q is no path", c.StateDir)
	}
	return ps.Err()
}

func checkNames(names []string, ps *conf.Problems) {
	if len(names) == 0 {
		ps.Addf("membership.names", "names: mountains", "the list of names is empty")
	}
	first := make(map[string]int, len(names))
	for i, name := range names {
		path := fmt.Sprintf("membership.names[%d]", i)
		checkName(path, "name", name, ps)
		if at, seen := first[name]; seen {
			ps.Addf(path, "names are unique; remove one", "name %q is in the list already, at [%d]", name, at)
			continue
		}
		first[name] = i
	}
}

func checkName(path, what, name string, ps *conf.Problems) {
	if !pool.IsName(name) {
		ps.Addf(path, fmt.Sprintf("letters, digits, _ and -, 1 to %d bytes", pool.MaxNameBytes), "%s %q is not usable", what, name)
	}
}
