package address

import (
	"cmp"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Meant returns the addresses that a person may have meant by text, which is none, the likeliest
// first: without its scheme, or its port, or a port alone. Not all are sound.
func Meant(text, scheme, port string) (all []string) {
	text = strings.TrimSpace(text)
	if m := somePath.FindStringSubmatch(text); m != nil {
		all = []string{"unix:///" + m[2], "unixgram:///" + m[2]}
		if strings.Contains(strings.ToLower(m[1]), "gram") {
			slices.Reverse(all)
		}
		return all
	}
	schemes, host := []string{scheme}, text
	if m := someScheme.FindStringSubmatch(text); m != nil {
		schemes, host = []string{strings.ToLower(m[1]), scheme}, text[len(m[0]):]
	}
	if host, _, _ = strings.Cut(host, "/"); strings.Count(host, ":") == 1 {
		host = strings.TrimSuffix(host, ":")
	}
	host = cmp.Or(host, localhost)
	for _, s := range schemes {
		for _, at := range append(hostPorts(host, port), localhost+":"+host, strings.Replace(host, "*", "0.0.0.0", 1)) {
			all = append(all, s+"://"+at)
		}
	}
	return all
}

// somePath finds what was meant to be the address of a unix socket.
var somePath = regexp.MustCompile(`(?i)^(?:(unix[a-z-]*|uds|file):/*|/)([^/].*)$`)

// someScheme finds what was meant to be the scheme of an address, and is in its first group if
// it may be one.
var someScheme = regexp.MustCompile(`(?i)^(?:(udp|tcp|tls|https?)[46]?(?:[:;]/*|/+)|[a-z0-9]+:/+)`)

// hostPorts returns what host may have meant as an address with a port.
func hostPorts(host, port string) []string {
	i := strings.LastIndexByte(host, ':')
	if strings.Count(host, ":") < 2 {
		return []string{host, host + ":" + port}
	}
	if _, err := netip.ParseAddr(host[:i]); err != nil {
		return []string{host, "[" + host + "]:" + port}
	}
	return []string{host, "[" + host[:i] + "]" + host[i:]}
}
