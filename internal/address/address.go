// Package address is the notation of sockets in the configuration.
package address

import (
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"unicode"
)

// An Address names a listener as the configuration writes it:
//
//	udp://localhost:8125    tcp://[::1]:2003
//	unixgram:///run/s.sock?mode=0660&group=adm    unix:///run/s.sock
//
// Network is "udp", "tcp", "unixgram" or "unix". Host and Port are set for udp and tcp,
// Path, Mode and Group for the unix sockets.
type Address struct {
	Network string
	Host    string
	Port    int
	Path    string
	Mode    uint32 // permission bits of a unix socket; 0: 0660
	Group   string // group of a unix socket, by name or number; "": ours
}

// String writes the address in the form that Parse reads.
func (a Address) String() string {
	switch a.Network {
	case "stdout", "carbon":
		return a.Network + ":"
	case "unix", "unixgram":
		q := url.Values{}
		if a.Mode != 0 {
			q.Set("mode", fmt.Sprintf("%04o", a.Mode))
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

// IsLocal says whether only this host can reach a listener there.
func (a Address) IsLocal() bool {
	ip := net.ParseIP(a.Host)
	return a.Path != "" || a.Host == localhost || ip != nil && ip.IsLoopback()
}

// MarshalText is String, as a text.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText is Parse.
func (a *Address) UnmarshalText(text []byte) (err error) {
	*a, err = Parse(string(text))
	return err
}

// Parse reads an address; see Address for the forms.
func Parse(s string) (Address, error) {
	if s == "stdout:" || s == "stdout" {
		return Address{Network: "stdout"}, nil
	}
	network, rest, ok := strings.Cut(s, "://")
	if !ok {
		return Address{}, fmt.Errorf("%q is no address (write it like udp://localhost:8125 or tcp://localhost:2003)", s)
	}
	switch network {
	case "udp", "tcp":
		return parseHostPort(network, rest, "localhost", 0)
	case "unix", "unixgram":
		return parseUnix(network, rest)
	}
	return Address{}, fmt.Errorf("unknown scheme %q in %q (use udp, tcp, unix or unixgram; stdout: for an upstream)", network, s)
}

const localhost = "localhost" // two addresses

// parseHostPort reads host:port, with a port from least on; example is a host for hints.
func parseHostPort(network, s, example string, least uint64) (Address, error) {
	usualPort := "2003"
	if network == "udp" {
		usualPort = "8125"
	}
	example = net.JoinHostPort(example, usualPort)
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		return Address{}, fmt.Errorf("%q is not host:port (write it like %s://%s; an IPv6 address in brackets)", s, network, example)
	}
	if !IsHost(host) {
		return Address{}, fmt.Errorf("%q is no host (write a name or an address, like %s://%s)", host, network, example)
	}
	n, err := parsePort(port, least)
	return Address{Network: network, Host: usual(host), Port: n}, err
}

func parsePort(s string, least uint64) (int, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n < least {
		return 0, fmt.Errorf("%q is no port (use 1 to 65535; 0 takes a free one for a listener)", s)
	}
	return int(n), nil
}

// usual returns the usual spelling of this host.
func usual(host string) string {
	if ip, err := netip.ParseAddr(host); err == nil && ip.IsLoopback() {
		return ip.WithZone("").String()
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), localhost) {
		return localhost
	}
	return host
}

// IsHost says whether host may be a name or an address; "" may.
func IsHost(host string) bool {
	isNumber := host != "" && strings.Trim(host, "0123456789.") == ""
	return !strings.ContainsFunc(host, isNoHost) && (!isNumber || net.ParseIP(host) != nil)
}

// isNoHost says whether neither a host name nor an address has r.
func isNoHost(r rune) bool {
	return unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(`/?#@\"'<>,;=()*$!&^|~{}+`+"`", r)
}

// maxPath is the longest path of a unix socket, in bytes: sun_path of unix(7) has 108,
// one of them for the end.
const maxPath = 107

func parseUnix(network, rest string) (Address, error) {
	path, query, _ := strings.Cut(rest, "?")
	switch {
	case !strings.HasPrefix(path, "/"):
		return Address{}, fmt.Errorf("%q is not an absolute path (write it like %s:///run/prefixproxy/socket)", path, network)
	case strings.HasSuffix(path, "/"):
		return Address{}, fmt.Errorf("%q is a directory (write the socket's own path, like %s:///run/prefixproxy/socket)", path, network)
	case len(path) > maxPath:
		return Address{}, fmt.Errorf("a path of %d bytes is too long for a unix socket, %q (at most %d: put it into a directory nearer to the root, like /run/prefixproxy)", len(path), path, maxPath)
	case strings.ContainsFunc(path, unicode.IsControl):
		return Address{}, fmt.Errorf("%q has control characters in it (write it like %s:///run/prefixproxy/socket)", path, network)
	}
	a := Address{Network: network, Path: path}
	values, err := url.ParseQuery(query)
	if err != nil {
		return Address{}, fmt.Errorf("%q: %w (write options like ?mode=0660&group=adm)", query, err)
	}
	for key, v := range values {
		if len(v) > 1 {
			return Address{}, fmt.Errorf("%s is given %d times in %q (remove all but one)", key, len(v), query)
		}
		switch key {
		case "mode":
			a.Mode, err = parseMode(v[0])
		case "group":
			a.Group, err = v[0], checkGroup(v[0])
		default:
			err = fmt.Errorf("unknown option %q of a unix socket (use mode and group)", key)
		}
		if err != nil {
			return Address{}, err
		}
	}
	return a, nil
}

func parseMode(s string) (uint32, error) {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode == 0 || mode > 0o777 || len(s) < 3 || len(s) > 4 {
		return 0, fmt.Errorf("%q is no mode (write it in octal, like mode=0660)", s)
	}
	return uint32(mode), nil
}

// checkGroup checks the form of a group. -1 is what chown(2) takes for no change.
func checkGroup(s string) error {
	gid, err := strconv.ParseUint(s, 10, 32)
	isNumber := strings.Trim(s, "0123456789") == ""
	if s == "" || isNumber && (err != nil || gid == math.MaxUint32) || s[0] == '-' || strings.ContainsFunc(s, unicode.IsControl) || strings.ContainsAny(s, ":,/ ") {
		return fmt.Errorf("%q is no group (write a name or a number, like group=adm)", s)
	}
	return nil
}

// hosts are the addresses that a host stands for; none, for a name. :: takes those of
// IPv4, too.
func (a Address) hosts() []netip.Addr {
	switch {
	case a.Host == localhost:
		return []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
	case a.Host == "":
		return []netip.Addr{netip.IPv6Unspecified()}
	}
	ip, err := netip.ParseAddr(a.Host)
	if err != nil {
		return nil
	}
	return []netip.Addr{ip.Unmap()}
}

// Family returns the network that package net binds, udp4 or tcp4 where the host is an
// IPv4 address: it would take 0.0.0.0 for :: otherwise.
func (a Address) Family() string {
	if hosts := a.hosts(); !a.IsUnix() && len(hosts) == 1 && hosts[0].Is4() {
		return a.Network + "4"
	}
	return a.Network
}
