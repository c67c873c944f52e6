package inlet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// ErrUnwantedSocket says that a socket was passed to us, or has been since the
// start, at whose address nothing is to listen: who sends there would wait for
// nobody.
var ErrUnwantedSocket = errors.New("a socket was passed for it, and no listener is configured there")

// An inherited socket is a bound one that was passed to us, by a supervisor that
// holds it too: it outlives us, and what reaches it meanwhile waits for our
// successor.
type inherited struct {
	stream  net.Listener   // of a stream socket; nil otherwise
	packets net.PacketConn // of datagrams; nil otherwise
}

// openInherited asks the kernel what the descriptors are. It takes them.
func openInherited(files []*os.File) (open []inherited, err error) {
	for _, f := range files {
		s, oneErr := newInherited(f)
		if oneErr != nil {
			err = errors.Join(err, fmt.Errorf("passed descriptor %s: %w", f.Name(), oneErr))
		} else {
			open = append(open, s)
		}
	}
	if err != nil {
		for _, s := range open {
			s.close()
		}
		return nil, err
	}
	return open, nil
}

func newInherited(f *os.File) (s inherited, err error) {
	defer f.Close() // package net duplicates it
	kind, err := askFile(f, syscall.SO_TYPE)
	if err != nil {
		return s, err
	}
	switch kind {
	case syscall.SOCK_DGRAM:
		s.packets, err = net.FilePacketConn(f)
		return s, err
	case syscall.SOCK_STREAM:
		if listens, err := askFile(f, syscall.SO_ACCEPTCONN); err != nil || listens == 0 {
			return s, errors.Join(err, errors.New("it is no listening socket; a socket unit needs Accept=no"))
		}
		s.stream, err = net.FileListener(f)
		return s, err
	}
	return s, fmt.Errorf("its socket type is %d, and only streams and datagrams are served", kind)
}

// askFile returns an integer option of the socket that f is.
func askFile(f *os.File, option int) (value int, err error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) { value, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, option) })
	return value, errors.Join(err, ctlErr)
}

// at returns the address of the socket.
func (s inherited) at() net.Addr {
	if s.stream != nil {
		return s.stream.Addr()
	}
	return s.packets.LocalAddr()
}

func (s inherited) close() {
	if s.stream != nil {
		s.stream.Close()
	} else {
		s.packets.Close()
	}
}

// isAt says whether the socket is the one that binding a would make.
func (s inherited) isAt(a address.Address) bool {
	switch at := s.at().(type) {
	case *net.UnixAddr:
		return at.Net == a.Network && at.Name == a.Path
	case *net.TCPAddr:
		return a.Network == "tcp" && names(a, at.AddrPort())
	case *net.UDPAddr:
		return a.Network == "udp" && names(a, at.AddrPort())
	}
	return false
}

// names says whether a, of an internet socket, means the address at. No host is
// any of this machine's, by IPv6 or IPv4.
func names(a address.Address, at netip.AddrPort) bool {
	if a.Port != int(at.Port()) {
		return false
	}
	if a.Host == "" {
		return at.Addr().IsUnspecified()
	}
	ip, err := netip.ParseAddr(a.Host)
	if err != nil {
		resolved, err := net.ResolveTCPAddr("tcp", a.HostPort())
		if err != nil {
			return false
		}
		ip = resolved.AddrPort().Addr()
	}
	return ip.Unmap() == at.Addr().Unmap()
}
