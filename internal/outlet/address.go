package outlet

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// An Address names an upstream as the configuration writes it:
//
//	udp://statsd:8125    udp://statsd:8125?health=8126
//	tcp://graphite:2003  tls://graphite.example.com:2003
//	unix:///run/carbon.sock    unixgram:///run/statsd.sock    stdout:    carbon:
type Address struct {
	Network string // udp, tcp, tls, unix, unixgram, stdout or carbon (none: StatsD becomes points of Carbon)
	Host    string // of udp, tcp and tls
	Port    int
	Health  int    // udp: the port at which statsd says how it is; 0: it isn't asked
	Path    string // of unix and unixgram
}

// String writes the address in the form that ParseAddress reads.
func (a Address) String() string {
	switch {
	case a.Network == "stdout", a.Network == "carbon":
		return a.Network + ":"
	case a.IsUnix():
		return a.Network + "://" + a.Path
	case a.Health != 0:
		return a.Network + "://" + a.HostPort() + "?health=" + strconv.Itoa(a.Health)
	}
	return a.Network + "://" + a.HostPort()
}

// HostPort is the server of udp, tcp or tls as package net takes it.
func (a Address) HostPort() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// IsUnix says whether the address is a path.
func (a Address) IsUnix() bool { return a.Network == "unix" || a.Network == "unixgram" }

// isDatagram says whether lines go in datagrams.
func (a Address) isDatagram() bool { return a.Network == "udp" || a.Network == "unixgram" }

// MarshalText is String, as a text.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is ParseAddress.
func (a *Address) UnmarshalText(text []byte) error {
	parsed, err := ParseAddress(string(text))
	if err == nil {
		*a = parsed
	}
	return err
}

// ParseAddress reads an address; see Address for the forms.
func ParseAddress(s string) (Address, error) {
	if s == "stdout:" || s == "stdout" {
		return Address{Network: "stdout"}, nil
	}
	if s == "carbon:" || s == "carbon" {
		return Address{Network: "carbon"}, nil
	}
	network, rest, ok := strings.Cut(s, "://")
	if !ok {
		return Address{}, fmt.Errorf("%q is no address (write it like tcp://graphite:2003 or udp://statsd:8125)", s)
	}
	switch network {
	case "udp", "tcp", "tls":
		return parseServer(network, rest)
	case "unix", "unixgram":
		a, err := address.Parse(s)
		if err == nil && strings.Contains(rest, "?") {
			err = fmt.Errorf("%q: an upstream takes no options (write it like %s:///run/carbon.sock)", rest, network)
		}
		return Address{Network: network, Path: a.Path}, err
	}
	return Address{}, fmt.Errorf("unknown scheme %q (use udp, tcp, tls, unix, unixgram or stdout:)", network)
}

func parseServer(network, rest string) (Address, error) {
	if strings.Contains(rest, "@") {
		return Address{}, fmt.Errorf("an upstream takes no user or password (write %s://host:port)", network)
	}
	hostPort, query, _ := strings.Cut(strings.TrimSuffix(rest, "/"), "?")
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not host:port (write it like %s://graphite:2003; an IPv6 address in brackets)", hostPort, network)
	}
	if !address.IsHost(host) {
		return Address{}, fmt.Errorf("%q is no host (write a name or an address, like %s://graphite:2003)", host, network)
	}
	a := Address{Network: network, Host: host}
	if a.Port, err = parsePort(port); err != nil {
		return Address{}, err
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w", query, err)
	}
	for key, v := range values {
		if key != "health" || network != "udp" || len(v) > 1 {
			return Address{}, fmt.Errorf("unknown or doubled option %q (udp:// takes health=8126, the port of statsd's management; others take none)", key)
		}
		if a.Health, err = parsePort(v[0]); err != nil {
			return Address{}, err
		}
	}
	return a, nil
}

func parsePort(s string) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port (use 1 to 65535)", s)
	}
	return int(n), nil
}
