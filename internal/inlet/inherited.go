package inlet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// ErrUnwantedSocket says that a socket was handed to us, at the start or later, for an address
// at which nothing is to listen: whoever sends there would wait for nobody.
var ErrUnwantedSocket = errors.New("systemd keeps a socket for it, and no listener is configured there")

// openInherited asks the kernel what the descriptors are: bound sockets that a supervisor
// holds as well. They outlive us, and what reaches them meanwhile waits for our successor. It
// takes the descriptors; the listeners wait to be asked for.
func openInherited(poller *poll.Poller, files []*os.File) (open []*Listener, err error) {
	for _, f := range files {
		l, oneErr := inherit(poller, f)
		if oneErr != nil {
			err = errors.Join(err, fmt.Errorf("passed descriptor %s: %w", f.Name(), oneErr))
			continue
		}
		l.Inherited = true
		open = append(open, l)
	}
	return open, err
}

func inherit(poller *poll.Poller, f *os.File) (*Listener, error) {
	defer f.Close() // package net duplicates it
	kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
		return nil, err
	case kind == unix.SOCK_DGRAM:
		packets, err := net.FilePacketConn(f)
		if err != nil {
			return nil, err
		}
		return newListener(poller, packets.LocalAddr(), packets.(syscall.Conn))
	case kind != unix.SOCK_STREAM:
		return nil, fmt.Errorf("its socket type is %d, and only streams and datagrams are served", kind)
	}
	if listens, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return nil, errors.Join(err, errors.New("it is no listening socket; a socket unit needs Accept=no"))
	}
	stream, err := net.FileListener(f)
	if err != nil {
		return nil, err
	}
	return newListener(poller, stream.Addr(), stream.(syscall.Conn))
}

// isMeant says whether the socket is the one that binding a would create.
func (l *Listener) isMeant(a address.Address) bool {
	if l.Address.Network != a.Network || l.Address.Port != a.Port || l.Address.Path != a.Path {
		return false
	}
	return a.IsUnix() || names(a, l.at.Addr())
}

// names says whether a, of an internet socket, means the address at. An empty host means any
// address of this machine, IPv6 or IPv4.
func names(a address.Address, at netip.Addr) bool {
	if a.Host == "" {
		return at.IsUnspecified()
	}
	means, err := net.ResolveTCPAddr("tcp", a.HostPort())
	return err == nil && means.AddrPort().Addr().Unmap() == at.Unmap()
}
