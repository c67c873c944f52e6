package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// receiveBuffer is what a datagram socket asks of the kernel, in bytes.
const receiveBuffer = 8 << 20

// smallBuffer is the receive buffer below which input must not gather for longer
// than smallPace: an ordinary burst would overrun it.
const (
	smallBuffer = 1 << 20
	smallPace   = time.Millisecond
)

// A listener is one bound socket. It is closed by the reader that runs on it.
type listener struct {
	proto   line.Protocol
	address Address // as configured, with the host and the port that were taken

	stream net.Listener // of a stream socket; nil otherwise
	socket *socket      // of datagrams; nil otherwise

	at            net.Addr // the address of the socket
	receiveBuffer int      // bytes granted; 0 for streams
}

func (l *listener) close() {
	if l.stream != nil {
		l.stream.Close() // unlinks a unix socket
		return
	}
	l.socket.close()
	if l.address.isUnix() {
		os.Remove(l.address.Path)
	}
}

// A binder binds sockets.
type binder struct{ poller *poller }

// bindAll binds the sockets of all addresses, or none.
func (b binder) bindAll(p line.Protocol, addrs []Address) ([]*listener, error) {
	var bound []*listener
	for _, a := range addrs {
		ls, err := b.bind(p, a)
		if err != nil {
			closeAll(bound)
			return nil, fmt.Errorf("listen for %s on %s: %w", p, a, err)
		}
		bound = append(bound, ls...)
	}
	return bound, nil
}

func closeAll(ls []*listener) {
	for _, l := range ls {
		l.close()
	}
}

// bind binds the sockets of one address: localhost has one a family.
func (b binder) bind(p line.Protocol, a Address) ([]*listener, error) {
	switch {
	case a.isUnix():
		l, err := b.bindUnix(p, a)
		return []*listener{l}, err
	case a.Host == "localhost":
		return b.bindLocalhost(p, a)
	}
	l, err := b.bindInet(p, a)
	return []*listener{l}, err
}

// bindLocalhost binds 127.0.0.1 and ::1 to one port. A family that the host
// lacks is passed over.
func (b binder) bindLocalhost(p line.Protocol, a Address) ([]*listener, error) {
	v4, v6 := a, a
	v4.Host, v6.Host = "127.0.0.1", "::1"
	for attempt := 0; ; attempt++ {
		l4, err4 := b.bindInet(p, v4)
		if err4 != nil && !isMissingFamily(err4) {
			return nil, err4
		}
		if err4 == nil {
			v6.Port = l4.address.Port
		}
		l6, err6 := b.bindInet(p, v6)
		switch {
		case err4 == nil && err6 == nil:
			return []*listener{l4, l6}, nil
		case err4 == nil && isMissingFamily(err6):
			return []*listener{l4}, nil
		case err4 != nil && err6 == nil:
			return []*listener{l6}, nil
		case err4 != nil:
			return nil, err4
		}
		l4.close()
		if a.Port != 0 || attempt == 10 {
			return nil, err6
		}
		v6.Port = 0 // the port that was free for IPv4 is taken for IPv6: another
	}
}

func isMissingFamily(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

func (b binder) bindInet(p line.Protocol, a Address) (*listener, error) {
	l := &listener{proto: p, address: a}
	if a.Network == "tcp" {
		stream, err := net.Listen("tcp", a.hostPort())
		if err != nil {
			return nil, err
		}
		l.stream, l.at = stream, stream.Addr()
		l.takePort()
		return l, nil
	}
	packets, err := net.ListenPacket("udp", a.hostPort())
	if err != nil {
		return nil, err
	}
	return l, b.take(l, packets)
}

// take makes packets the socket of l, with a large receive buffer.
func (b binder) take(l *listener, packets net.PacketConn) (err error) {
	l.at = packets.LocalAddr()
	l.takePort()
	if l.socket, err = b.poller.detach(packets.(syscall.Conn)); err != nil {
		return err
	}
	l.receiveBuffer, err = growReceiveBuffer(l.socket.fd, receiveBuffer)
	if err != nil {
		l.socket.close()
	}
	return err
}

// takePort notes the port that the kernel gave.
func (l *listener) takePort() {
	if _, port, err := net.SplitHostPort(l.at.String()); err == nil {
		l.address.Port, _ = strconv.Atoi(port)
	}
}

func (b binder) bindUnix(p line.Protocol, a Address) (*listener, error) {
	if err := removeStale(a); err != nil {
		return nil, err
	}
	l := &listener{proto: p, address: a}
	if a.Network == "unix" {
		stream, err := net.Listen("unix", a.Path)
		if err != nil {
			return nil, err
		}
		l.stream, l.at = stream, stream.Addr()
	} else {
		packets, err := net.ListenPacket("unixgram", a.Path)
		if err == nil {
			err = b.take(l, packets)
		}
		if err != nil {
			return nil, err
		}
	}
	if err := setAccess(a); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// removeStale removes a socket that a dead process left behind. One on which
// somebody listens stays, and is an error.
func removeStale(a Address) error {
	info, err := os.Lstat(a.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", a.Path)
	}
	conn, err := net.Dial(a.Network, a.Path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s: %w", a.Path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(a.Path)
}

// setAccess gives a unix socket its mode and group.
func setAccess(a Address) error {
	if a.Group != "" {
		gid, err := groupID(a.Group)
		if err != nil {
			return err
		}
		if err := os.Chown(a.Path, -1, gid); err != nil {
			return err
		}
	}
	if a.Mode != 0 {
		return os.Chmod(a.Path, os.FileMode(a.Mode))
	}
	return nil
}

func groupID(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// isPast says whether ctx has ended: the error of a read that was interrupted
// because of it is no error.
func isPast(ctx context.Context) bool { return ctx.Err() != nil }

// isSmall says whether the kernel granted too little for input to gather.
func (l *listener) isSmall() bool {
	return l.address.Network == "udp" && l.receiveBuffer < smallBuffer
}

// pace returns how long input may gather in a datagram socket.
func (l *listener) pace(coalesce time.Duration) time.Duration {
	switch {
	case l.address.isUnix():
		return 0 // its queue holds ten datagrams, then the sender is blocked
	case l.isSmall():
		return min(coalesce, smallPace)
	}
	return coalesce
}

// isPrivate says whether only this host can reach the socket.
func (l *listener) isPrivate() bool {
	addr, err := netip.ParseAddrPort(l.at.String())
	return err != nil || addr.Addr().IsLoopback()
}

// kernelDrops returns how many datagrams the kernel has dropped at the socket.
func (l *listener) kernelDrops() (n uint64, err error) {
	if l.address.Network != "udp" {
		return 0, errors.ErrUnsupported
	}
	err = l.socket.use(func(fd int) (err error) {
		n, err = kernelDrops(fd)
		return err
	})
	return n, err
}
