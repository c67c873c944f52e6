package address

import (
	"fmt"
	"net/netip"
	"net/url"
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
func ParseUpstream(s string) (Upstream, error) {
	network, rest, ok := strings.Cut(s, "://")
	switch {
	case s == "stdout:", s == "stdout", s == "carbon:", s == "carbon":
		return Upstream{Address: Address{Network: strings.TrimSuffix(s, ":")}}, nil
	case !ok:
		return Upstream{}, fmt.Errorf("%q is no address (write it like tcp://graphite:2003 or udp://statsd:8125)", s)
	case network == "udp", network == "tcp", network == "tls":
		return parseServer(network, rest)
	case network == "unix", network == "unixgram":
		a, err := parseUnix(network, rest)
		if err == nil && strings.Contains(rest, "?") {
			err = fmt.Errorf("%q: an upstream takes no options (write it like %s:///run/carbon.sock)", rest, network)
		}
		return Upstream{Address: a}, err
	}
	return Upstream{}, fmt.Errorf("unknown scheme %q (use udp, tcp, tls, unix, unixgram, stdout: or, for StatsD, carbon:)", network)
}

func parseServer(network, rest string) (u Upstream, err error) {
	if strings.Contains(rest, "@") {
		return u, fmt.Errorf("an upstream takes no user or password (write %s://host:port)", network)
	}
	hostPort, query, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "?")
	if u.Address, err = parseHostPort(network, hostPort, "graphite", 1); err != nil {
		return u, err
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return u, fmt.Errorf("%q: %w (udp:// takes ?health=8126; others take no options)", query, err)
	}
	for key, v := range values {
		if key != "health" || network != "udp" || len(v) > 1 {
			return u, fmt.Errorf("unknown or doubled option %q (udp:// takes health=8126, the port of statsd's management; others take none)", key)
		}
		if u.Health, err = parsePort(v[0], 1); err != nil {
			return u, err
		}
	}
	return u, nil
}
