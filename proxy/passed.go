package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/recvbuf"
)

// ErrUnwantedSocket says that a socket was passed to us, or has been since the
// start, at whose address nothing is to listen: who sends there would wait for
// nobody.
var ErrUnwantedSocket = errors.New("a socket was passed for it, and no listener is configured there")

// A passedSocket is a bound socket that was passed to us, by a supervisor that
// holds it too: it outlives us, and what reaches it meanwhile waits for our
// successor.
type passedSocket struct {
	stream  net.Listener   // of a stream socket; nil otherwise
	packets net.PacketConn // of datagrams; nil otherwise
}

// openPassed asks the kernel what the descriptors are. It takes them.
func openPassed(files []*os.File) (passed []passedSocket, err error) {
	for _, f := range files {
		s, oneErr := newPassedSocket(f)
		if oneErr != nil {
			err = errors.Join(err, fmt.Errorf("passed descriptor %s: %w", f.Name(), oneErr))
		} else {
			passed = append(passed, s)
		}
	}
	if err != nil {
		for _, s := range passed {
			s.close()
		}
		return nil, err
	}
	return passed, nil
}

func newPassedSocket(f *os.File) (s passedSocket, err error) {
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
func (s passedSocket) at() net.Addr {
	if s.stream != nil {
		return s.stream.Addr()
	}
	return s.packets.LocalAddr()
}

func (s passedSocket) close() {
	if s.stream != nil {
		s.stream.Close()
	} else {
		s.packets.Close()
	}
}

// isAt says whether the socket is the one that binding a would make.
func (s passedSocket) isAt(a Address) bool {
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
func names(a Address, at netip.AddrPort) bool {
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

// adopt makes a passed socket that of l. Whoever bound it has chosen who may
// reach it.
func (b *binder) adopt(l *listener, s passedSocket) error {
	l.passed = true
	if s.stream != nil {
		l.take(s.stream)
		return nil
	}
	if err := b.takePackets(l, s.packets); err != nil {
		return err
	}
	l.earlierDrops, _ = recvbuf.Drops(l.socket.FD()) // where it is not known, it is not asked for later
	return nil
}

// unwanted returns an error that names the passed sockets which nothing of the
// configuration wants.
func (b *binder) unwanted() (err error) {
	for _, s := range b.passed {
		err = errors.Join(err, fmt.Errorf("%s://%s: %w", s.at().Network(), s.at(), ErrUnwantedSocket))
	}
	for _, l := range b.have {
		if l.passed {
			err = errors.Join(err, fmt.Errorf("%s for %s: %w", l.address, l.proto, ErrUnwantedSocket))
		}
	}
	return err
}
