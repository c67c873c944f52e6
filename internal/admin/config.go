package admin

import (
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// Config steers a Server. DefaultConfig returns the defaults that the field
// comments give; Problems checks a Config.
type Config struct {
	// Listen is where the pages are: host:port, or unix:///path, for our user and group; "" turns
	// them off. Default localhost:8127. On an address that is not loopback, everybody who reaches it
	// can read names, upstreams and bad lines.
	Listen string `yaml:"listen"`

	// BadLines serves the last refused lines at /badlines; default true. Turn it off if metric names
	// are confidential.
	BadLines bool `yaml:"badlines"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{Listen: "localhost:8127", BadLines: true} }

// Problems returns what is wrong with the configuration, all of it.
func (c Config) Problems() conf.Problems {
	var ps conf.Problems
	at, err := c.Address()
	switch {
	case c.Listen == "":
	case err != nil:
		what, _, _ := strings.Cut(err.Error(), " (") // without the remedy, which is for listeners
		ps.Addf("admin.listen", `write it like localhost:8127 or unix:///run/prefixproxy/admin.sock; "" turns the page off`, "%s", what)
	case at.IsUnix() && strings.Contains(c.Listen, "?"):
		ps.Addf("admin.listen", "write it like unix:///run/prefixproxy/admin.sock", "%q: the page's socket takes no options", c.Listen)
	}
	return ps
}

// Address returns where the pages are; an error if they are off, or Listen is wrong.
func (c Config) Address() (address.Address, error) {
	if strings.HasPrefix(c.Listen, "unix://") {
		return address.Parse(c.Listen)
	}
	return address.Parse("tcp://" + c.Listen)
}

// Local reports whether only this host can reach the pages.
func (c Config) Local() bool {
	a, _ := c.Address()
	return c.Listen == "" || a.IsLocal()
}

// isLoopback reports whether the pages are at loopback addresses.
func (c Config) isLoopback() bool {
	a, _ := c.Address()
	return c.Local() && !a.IsUnix()
}
