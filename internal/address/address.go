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
func Parse(s string) (a Address, err error) {
	network, at, query, ok := split(s)
	if !ok {
		return a, fmt.Errorf("%q is no address (write it like udp://localhost:8125 or tcp://localhost:2003)", s)
	}
	switch network {
	case "stdout:":
		a.Network = "stdout"
	case "udp", "tcp":
		if a, err = parseHostPort(network, strings.TrimSuffix(at, "/"), localhost, 0); err == nil {
			err = readOptions(query, "only unix sockets take some", nil)
		}
	case "unix", "unixgram":
		if a, err = parsePath(network, at); err == nil {
			err = readOptions(query, "use mode and group, like ?mode=0660&group=adm", map[string]func(string) error{"mode": a.setMode, "group": a.setGroup})
		}
	default:
		err = fmt.Errorf("unknown scheme %q in %q (use udp, tcp, unix or unixgram; stdout: for an upstream)", network, s)
	}
	return a, err
}

// split takes an address apart. stdout: and carbon:, which need no colon, are all of one.
func split(s string) (network, at, query string, ok bool) {
	switch network, rest, ok := strings.Cut(s, "://"); {
	case ok:
		at, query, _ = strings.Cut(rest, "?")
		return network, at, query, true
	case s == "stdout:", s == "stdout", s == "carbon:", s == "carbon":
		return strings.TrimSuffix(s, ":") + ":", "", "", true
	}
	return "", "", "", false
}

// readOptions gives each option of a query to the function of its name.
func readOptions(query, hint string, read map[string]func(string) error) error {
	values, err := url.ParseQuery(query)
	if err != nil {
		return fmt.Errorf("%q: %w (%s)", query, err, hint)
	}
	for key, all := range values {
		if read[key] == nil || len(all) > 1 {
			return fmt.Errorf("unknown or doubled option %q (%s)", key, hint)
		}
		if err := read[key](all[0]); err != nil {
			return err
		}
	}
	return nil
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
		free := ""
		if least == 0 {
			free = "; 0 takes a free one"
		}
		return 0, fmt.Errorf("%q is no port (use 1 to 65535%s)", s, free)
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
	return !strings.ContainsFunc(host, isNoHost) && !strings.HasPrefix(host, "-") && !strings.Contains(host, "..") && (!isNumber || net.ParseIP(host) != nil)
}

// isNoHost says whether neither a host name nor an address has r: a name with other letters than
// ASCII's is looked up by another one (xn--…).
func isNoHost(r rune) bool {
	return r > unicode.MaxASCII || unicode.IsControl(r) || unicode.IsSpace(r) || strings.ContainsRune(`/?#@\"'<>,;=()*$!&^|~{}+`+"`", r)
}

// maxPath is the longest path of a unix socket, in bytes: sun_path of unix(7) has 108,
// one of them for the end.
const maxPath = 107

func parsePath(network, path string) (Address, error) {
	why := ""
	switch {
	case !strings.HasPrefix(path, "/"):
		why = "is not an absolute path"
	case strings.HasSuffix(path, "/"):
		why = "is a directory"
	case len(path) > maxPath:
		why = fmt.Sprintf("is too long for a unix socket, whose path has at most %d bytes", maxPath)
	case strings.ContainsFunc(path, unicode.IsControl):
		why = "has control characters in it"
	default:
		return Address{Network: network, Path: path}, nil
	}
	return Address{}, fmt.Errorf("%q %s (write the socket's own path, like %s:///run/prefixproxy/socket)", path, why, network)
}

func (a *Address) setMode(s string) error {
	mode, err := strconv.ParseUint(s, 8, 32)
	if err != nil || mode == 0 || mode > 0o777 || len(s) < 3 || len(s) > 4 {
		return fmt.Errorf("%q is no mode (write it in octal, like mode=0660)", s)
	}
	a.Mode = uint32(mode)
	return nil
}

// setGroup checks the form of a group. -1 is what chown(2) takes for no change.
func (a *Address) setGroup(s string) error {
	gid, err := strconv.ParseUint(s, 10, 32)
	isNumber := strings.Trim(s, "0123456789") == ""
	if s == "" || isNumber && (err != nil || gid == math.MaxUint32) || s[0] == '-' || strings.ContainsFunc(s, unicode.IsControl) || strings.ContainsAny(s, ":,/ ") {
		return fmt.Errorf("%q is no group (write a name or a number, like group=adm)", s)
	}
	a.Group = s
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
