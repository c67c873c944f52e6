package inlet

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// ErrUnwantedSocket says that a socket was passed to us, or has been since the
// start, at whose address nothing is to listen: who sends there would wait for
// nobody.
var ErrUnwantedSocket = errors.New("a socket was passed for it, and no listener is configured there")

// A socket is a bound one that was passed to us, by a supervisor that holds it too: it
// outlives us, and what reaches it meanwhile waits for our successor.
type socket struct {
	at   net.Addr
	conn conn
}

// A conn is a net.Listener, or a net.PacketConn.
type conn interface {
	syscall.Conn
	io.Closer
}

// openInherited asks the kernel what the descriptors are. It takes them.
func openInherited(files []*os.File) (open []socket, err error) {
	for _, f := range files {
		s, oneErr := openSocket(f)
		if oneErr != nil {
			err = errors.Join(err, fmt.Errorf("passed descriptor %s: %w", f.Name(), oneErr))
			continue
		}
		open = append(open, s)
	}
	return open, err
}

func openSocket(f *os.File) (s socket, err error) {
	defer f.Close() // package net duplicates it
	kind, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_TYPE)
	switch {
	case err != nil:
		return s, err
	case kind == unix.SOCK_DGRAM:
		packets, err := net.FilePacketConn(f)
		if err != nil {
			return s, err
		}
		return socket{packets.LocalAddr(), packets.(conn)}, nil
	case kind != unix.SOCK_STREAM:
		return s, fmt.Errorf("its socket type is %d, and only streams and datagrams are served", kind)
	}
	if listens, err := unix.GetsockoptInt(int(f.Fd()), unix.SOL_SOCKET, unix.SO_ACCEPTCONN); err != nil || listens == 0 {
		return s, errors.Join(err, errors.New("it is no listening socket; a socket unit needs Accept=no"))
	}
	stream, err := net.FileListener(f)
	if err != nil {
		return s, err
	}
	return socket{stream.Addr(), stream.(conn)}, nil
}

// isAt says whether the socket is the one that binding a would make.
func (s socket) isAt(a address.Address) bool {
	switch at := s.at.(type) {
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
	means, err := net.ResolveTCPAddr("tcp", a.HostPort())
	return err == nil && means.AddrPort().Addr().Unmap() == at.Addr().Unmap()
}
