package address

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// An Upstream names a server as the configuration writes it:
//
//	udp://statsd:8125    udp://statsd:8125?health=8126
//	tcp://graphite:2003  tls://graphite.example.com:2003
//	unix:///run/carbon.sock    unixgram:///run/statsd.sock    stdout:    carbon:
//
// Network may be tls, stdout or carbon, too (none: StatsD becomes points of Carbon).
type Upstream struct {
	Address
	Health int // udp: the port at which statsd says how it is; 0: it isn't asked
}

// String writes the upstream in the form that ParseUpstream reads.
func (u Upstream) String() string {
	if u.Health != 0 {
		return u.Address.String() + "?health=" + strconv.Itoa(u.Health)
	}
	return u.Address.String()
}

// MarshalText is String, as a text.
func (u Upstream) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is ParseUpstream.
func (u *Upstream) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUpstream(string(text))
	return err
}

// IsDatagram says whether lines go in datagrams.
func (u Upstream) IsDatagram() bool { return u.Network == "udp" || u.Network == "unixgram" }

// IsName says whether the host is to be looked up.
func (u Upstream) IsName() bool {
	_, err := netip.ParseAddr(u.Host)
	return u.Host != "" && err != nil
}

// At is the server as package net takes it.
func (u Upstream) At() string {
	switch {
	case u.Network == "stdout":
		return u.String()
	case u.IsUnix():
		return u.Path
	}
	return u.HostPort()
}

// ParseUpstream reads an upstream; see Upstream for the forms.
func ParseUpstream(s string) (u Upstream, err error) {
	network, at, query, ok := split(s)
	if !ok {
		return u, fmt.Errorf("%q is no address (write it like tcp://graphite:2003 or udp://statsd:8125)", s)
	}
	options := map[string]func(string) error{}
	switch network {
	case "stdout:", "carbon:":
		u.Network = strings.TrimSuffix(network, ":")
	case "udp", "tcp", "tls":
		if strings.Contains(s, "@") {
			return u, fmt.Errorf("an upstream takes no user or password (write %s://host:port)", network)
		}
		if network == "udp" {
			options["health"] = u.setHealth
		}
		u.Address, err = parseHostPort(network, strings.TrimSuffix(at, "/"), "graphite", 1)
	case "unix", "unixgram":
		u.Address, err = parsePath(network, at)
	default:
		return u, fmt.Errorf("unknown scheme %q (use udp, tcp, tls, unix, unixgram, stdout: or, for StatsD, carbon:)", network)
	}
	if err == nil {
		err = readOptions(query, "udp:// takes ?health=8126, the port of statsd's management; others take no options", options)
	}
	return u, err
}

func (u *Upstream) setHealth(port string) (err error) {
	u.Health, err = parsePort(port, 1)
	return err
}
