// Package address is the notation of sockets in the configuration.
package address

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// An Address names a listener or an upstream as the configuration writes it:
//
//	udp://localhost:8125    tcp://[::1]:2003    stdout:
//	unixgram:///run/s.sock?mode=0660&group=adm    unix:///run/s.sock
//
// Network is "udp", "tcp", "unixgram", "unix" or "stdout". Host and Port are
// set for udp and tcp, Path, Mode and Group for the unix sockets.
type Address struct {
	Network string
	Host    string
	Port    int
	Path    string
	Mode    uint32 // permission bits of a unix socket; 0: as the umask leaves them
	Group   string // group of a unix socket, by name or number; "": ours
}

// String writes the address in the form that Parse reads.
func (a Address) String() string {
	switch a.Network {
	case "stdout":
		return "stdout:"
	case "unix", "unixgram":
		q := url.Values{}
		if a.Mode != 0 {
			q.Set("mode", fmt.Sprintf("%#o", a.Mode))
		}
		if a.Group != "" {
			q.Set("group", a.Group)
		}
		if len(q) == 0 {
			return a.Network + "://" + a.Path
		}
		return a.Network + "://" + a.Path + "?" + q.Encode()
	}
	return a.Network + "://" + a.HostPort()
}

// HostPort is the address of a udp or tcp socket as package net takes it.
func (a Address) HostPort() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

// IsUnix says whether the address is a path.
func (a Address) IsUnix() bool { return a.Network == "unix" || a.Network == "unixgram" }

// MarshalText is String, as a text.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is Parse.
func (a *Address) UnmarshalText(text []byte) error {
	parsed, err := Parse(string(text))
	if err == nil {
		*a = parsed
	}
	return err
}

// Parse reads an address; see Address for the forms.
func Parse(s string) (Address, error) {
	if s == "stdout:" || s == "stdout" {
		return Address{Network: "stdout"}, nil
	}
	network, rest, ok := strings.Cut(s, "://")
	if !ok {
		return Address{}, fmt.Errorf("%q is no address (write it like udp://localhost:8125)", s)
	}
	switch network {
	case "udp", "tcp":
		return parseHostPort(network, rest)
	case "unix", "unixgram":
		return parseUnix(network, rest)
	}
	return Address{}, fmt.Errorf("unknown scheme %q in %q (use udp, tcp, unix or unixgram; stdout: for an upstream)", network, s)
}

func parseHostPort(network, rest string) (Address, error) {
	host, port, err := net.SplitHostPort(rest)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not host:port (write it like %s://localhost:8125; an IPv6 address in brackets)", rest, network)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return Address{}, fmt.Errorf("%q is no port (use 1 to 65535; 0 takes a free one for a listener)", port)
	}
	return Address{Network: network, Host: host, Port: int(n)}, nil
}

func parseUnix(network, rest string) (Address, error) {
	path, query, _ := strings.Cut(rest, "?")
	if !strings.HasPrefix(path, "/") {
		return Address{}, fmt.Errorf("%q is not an absolute path (write it like %s:///run/prefixproxy/socket)", path, network)
	}
	a := Address{Network: network, Path: path}
	values, err := url.ParseQuery(query)
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w", query, err)
	}
	for key, v := range values {
		switch key {
		case "mode":
			mode, err := strconv.ParseUint(v[0], 8, 32)
			if err != nil || mode == 0 || mode > 0o777 {
				return Address{}, fmt.Errorf("%q is no mode (write it in octal, like mode=0660)", v[0])
			}
			a.Mode = uint32(mode)
		case "group":
			a.Group = v[0]
		default:
			return Address{}, fmt.Errorf("unknown option %q of a unix socket (use mode and group)", key)
		}
	}
	return a, nil
}

// BindKey is equal for two listeners that cannot both be bound; "" never is.
func (a Address) BindKey() string {
	switch {
	case a.IsUnix():
		return a.Path
	case a.Port == 0:
		return ""
	}
	return a.Network + " " + strings.ToLower(a.HostPort())
}
