package admin

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// Config steers a Server. DefaultConfig returns the defaults that the field
// comments give; Problems checks a Config.
type Config struct {
	// Listen is where the pages are: host:port, or unix:///path; "" turns them
	// off. Default localhost:8127. On an address that is not loopback everybody
	// who reaches it can read names, upstreams and bad lines.
	Listen string `yaml:"listen"`

	// BadLines serves the last refused lines, as they came, under /badlines;
	// default true. Turn it off when metric names are confidential.
	BadLines bool `yaml:"badlines"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config { return Config{Listen: "localhost:8127", BadLines: true} }

// Problems returns what is wrong with the configuration, all of it.
func (c Config) Problems() conf.Problems {
	var ps conf.Problems
	if path, ok := c.socket(); ok {
		if _, err := address.Parse(c.Listen); err != nil {
			ps.Addf("admin.listen", "", "%v", err)
		} else if strings.Contains(path, "?") {
			ps.Addf("admin.listen", "write it like unix:///run/prefixproxy/admin.sock", "%q: the page's socket takes no options", path)
		}
		return ps
	}
	if c.Listen == "" {
		return ps
	}
	host, port, err := net.SplitHostPort(c.Listen)
	if err != nil || !address.IsHost(host) || strings.Contains(port, "/") {
		ps.Addf("admin.listen", c.hint(), "%q is not host:port", c.Listen)
	} else if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		ps.Addf("admin.listen", "1 to 65535; 0 takes a free one", "%q is no port", port)
	}
	return ps
}

// hint is how Listen may have been meant.
func (c Config) hint() string {
	at := c.Listen
	for _, scheme := range []string{"http://", "https://", "tcp://"} {
		at = strings.TrimPrefix(at, scheme)
	}
	at, _, _ = strings.Cut(strings.Trim(at, "[]"), "/")
	host, port, err := net.SplitHostPort(at)
	switch i := strings.LastIndexByte(at, ':'); {
	case at == "off" || at == "none" || at == "false" || at == "no":
		return `"" turns the page off`
	case at == "true" || at == "on" || at == "yes":
		return "localhost:8127"
	case strings.HasPrefix(c.Listen, "unix:"):
		return "unix:///" + strings.TrimLeft(strings.TrimPrefix(c.Listen, "unix:"), "/")
	case err == nil && address.IsHost(host):
		return net.JoinHostPort(host, port)
	case i > 0 && net.ParseIP(at[:i]) != nil:
		return net.JoinHostPort(at[:i], at[i+1:])
	case at != "" && strings.Trim(at, "0123456789") == "":
		return "localhost:" + at
	case i < 0 && at != "" && address.IsHost(at):
		return net.JoinHostPort(at, "8127")
	}
	return `localhost:8127, unix:///path, or "" to turn the page off`
}

// Local says whether only this host can reach the pages.
func (c Config) Local() bool {
	_, isSocket := c.socket()
	return c.Listen == "" || isSocket || isLoopback(c.Listen)
}

// socket returns the path of a unix socket, if that is where the pages are.
func (c Config) socket() (path string, ok bool) { return strings.CutPrefix(c.Listen, "unix://") }

// isLoopback says whether hostport, with or without a port, means this host to
// whoever reads it: localhost or an address of a loopback interface.
func isLoopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.Unmap().IsLoopback()
}
