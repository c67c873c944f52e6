package address

import (
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// A Socket is where an address leads, as far as that is known. It is looked up once: each may
// be compared with each.
type Socket struct {
	Address
	path string       // of a unix socket, without links
	file os.FileInfo  // at that path; nil: nothing
	ips  []netip.Addr // that the host stands for
}

// Socket returns where the address leads.
func (a Address) Socket() Socket {
	s := Socket{Address: a, ips: a.hosts()}
	if a.IsUnix() {
		s.path = realPath(a.Path)
		s.file, _ = os.Stat(a.Path)
	}
	return s
}

// Takes says, as far as the text tells, whether two listeners would take the same
// socket, or one a part of the other's: both can't be bound.
func (s Socket) Takes(other Socket) bool {
	if s.IsUnix() || other.IsUnix() {
		return s.isFileOf(other)
	}
	return s.isPortOf(other) && s.meets(other, func(x, y netip.Addr) bool {
		return x == y || covers(x, y) || covers(y, x)
	})
}

// Reaches says whether what is sent to an upstream arrives at a listener at own. What only a
// name that is looked up shows, it does not know.
func (s Socket) Reaches(own Socket) bool {
	if s.IsUnix() {
		return s.Network == own.Network && s.isFileOf(own)
	}
	if s.Network == "tls" {
		s.Network = "tcp"
	}
	if len(s.ips) == 1 && s.ips[0].IsUnspecified() {
		s.ips = Address{Host: localhost}.hosts() // that is where the kernel connects to
	}
	return s.isPortOf(own) && s.meets(own, func(x, y netip.Addr) bool {
		return x == y || covers(y, x) && isOurs(x)
	})
}

// isFileOf says whether two paths lead to one file, or would.
func (s Socket) isFileOf(other Socket) bool {
	return s.path != "" && (s.path == other.path || s.file != nil && other.file != nil && os.SameFile(s.file, other.file))
}

func (s Socket) isPortOf(other Socket) bool {
	return s.Network == other.Network && s.Port == other.Port && s.Port != 0
}

// meets says whether a host that s stands for, and one of other's, do.
func (s Socket) meets(other Socket, do func(x, y netip.Addr) bool) bool {
	return strings.EqualFold(s.Host, other.Host) || slices.ContainsFunc(s.ips, func(x netip.Addr) bool {
		return slices.ContainsFunc(other.ips, func(y netip.Addr) bool { return do(x, y) })
	})
}

// covers says whether who listens at all is unspecified, and takes what is for ip, too.
func covers(all, ip netip.Addr) bool { return all.IsUnspecified() && (all.Is6() || ip.Is4()) }

// isOurs says whether this host has an address.
func isOurs(ip netip.Addr) bool {
	if ip.IsLoopback() {
		return true
	}
	ours, _ := net.InterfaceAddrs()
	return slices.ContainsFunc(ours, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.Equal(ip.AsSlice())
	})
}

// realPath is where a path leads, as far as that is there: /var/run is /run on many
// hosts.
func realPath(path string) string {
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, filepath.Base(path))
}
