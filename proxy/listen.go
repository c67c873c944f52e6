package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/recvbuf"
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
	asked   Address // as configured, with one of the hosts that localhost stands for
	address Address // asked, with the port that was taken
	passed  bool    // the socket was passed to us, and lives on with whoever did so

	stream net.Listener // of a stream socket; nil otherwise
	socket *poll.Socket // of datagrams; nil otherwise

	at            net.Addr // the address of the socket
	receiveBuffer int      // bytes granted; 0 for streams
	earlierDrops  uint64   // of the datagrams that the kernel dropped, those before us
}

// close closes the socket, and removes the path of a unix socket. Of a passed one
// it closes our descriptor: what waits at the socket is for our successor.
func (l *listener) close() {
	if l.stream != nil {
		l.stream.Close() // removes the path, unless the socket was passed
		return
	}
	l.socket.Close()
	if l.address.IsUnix() && !l.passed {
		os.Remove(l.address.Path)
	}
}

// interrupt ends an Accept that waits, and all later ones.
func (l *listener) interrupt() {
	l.stream.(interface{ SetDeadline(time.Time) error }).SetDeadline(time.Unix(1, 0))
}

// A binder finds or binds the sockets of a configuration. One goroutine uses it,
// once.
type binder struct {
	poller *poll.Poller
	have   []*listener    // bound by an earlier configuration, and not asked for yet
	passed []passedSocket // bound by somebody else, and not asked for yet
	added  []*listener    // those that have only just become ours
}

// bindAll returns the sockets of l. With an error, nothing has changed: but the
// passed sockets are closed.
func (b *binder) bindAll(l Listen) ([]*listener, error) {
	statsd, err := b.bindProtocol(line.StatsD, l.StatsD)
	if err != nil {
		return nil, b.undo(err)
	}
	carbon, err := b.bindProtocol(line.Carbon, l.Carbon)
	if err == nil {
		err = b.unwanted()
	}
	if err != nil {
		return nil, b.undo(err)
	}
	return append(statsd, carbon...), nil
}

func (b *binder) bindProtocol(p line.Protocol, addrs []Address) ([]*listener, error) {
	var bound []*listener
	for _, a := range addrs {
		ls, err := b.bind(p, a)
		if err != nil {
			return nil, fmt.Errorf("listen for %s on %s: %w", p, a, err)
		}
		bound = append(bound, ls...)
	}
	return bound, nil
}

// undo closes what has only just become ours, because of err.
func (b *binder) undo(err error) error {
	for _, l := range b.added {
		l.close()
	}
	for _, s := range b.passed {
		s.close()
	}
	return err
}

// bind returns the sockets of one address: localhost has one a family.
func (b *binder) bind(p line.Protocol, a Address) ([]*listener, error) {
	if a.Host == "localhost" {
		return b.bindLocalhost(p, a)
	}
	l, err := b.bindOne(p, a)
	return []*listener{l}, err
}

// bindOne returns the socket of an address: one that is bound already, or a new
// one.
func (b *binder) bindOne(p line.Protocol, a Address) (l *listener, err error) {
	isA := func(l *listener) bool { return l.proto == p && l.asked == a }
	if i := slices.IndexFunc(b.have, isA); i >= 0 {
		l = b.have[i]
		b.have = slices.Delete(b.have, i, i+1)
		return l, nil
	}
	l = &listener{proto: p, asked: a, address: a}
	isAt := func(s passedSocket) bool { return s.isAt(a) }
	if i := slices.IndexFunc(b.passed, isAt); i >= 0 {
		err = b.adopt(l, b.passed[i])
		b.passed = slices.Delete(b.passed, i, i+1)
	} else if a.IsUnix() {
		err = b.bindUnix(l)
	} else {
		err = b.bindInet(l)
	}
	if err != nil {
		return nil, err
	}
	b.added = append(b.added, l)
	return l, nil
}

// giveBack undoes bindOne.
func (b *binder) giveBack(l *listener) {
	if i := slices.Index(b.added, l); i >= 0 {
		b.added = slices.Delete(b.added, i, i+1)
		l.close()
	} else {
		b.have = append(b.have, l)
	}
}

// bindLocalhost binds 127.0.0.1 and ::1 to one port. A family that the host
// lacks is passed over.
func (b *binder) bindLocalhost(p line.Protocol, a Address) ([]*listener, error) {
	v4, v6 := a, a
	v4.Host, v6.Host = "127.0.0.1", "::1"
	for attempt := 0; ; attempt++ {
		l4, err4 := b.bindOne(p, v4)
		if err4 != nil && !isMissingFamily(err4) {
			return nil, err4
		}
		if err4 == nil {
			v6.Port = l4.address.Port
		}
		l6, err6 := b.bindOne(p, v6)
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
		b.giveBack(l4)
		if a.Port != 0 || attempt == 10 {
			return nil, err6
		}
		v6.Port = 0 // the port that was free for IPv4 is taken for IPv6: another
	}
}

func isMissingFamily(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

func (b *binder) bindInet(l *listener) error {
	if l.address.Network == "tcp" {
		stream, err := net.Listen("tcp", l.address.HostPort())
		if err != nil {
			return err
		}
		l.take(stream)
		return nil
	}
	packets, err := net.ListenPacket("udp", l.address.HostPort())
	if err != nil {
		return err
	}
	return b.takePackets(l, packets)
}

// take makes stream the socket of l.
func (l *listener) take(stream net.Listener) {
	l.stream, l.at = stream, stream.Addr()
	l.takePort()
}

// takePackets makes packets the socket of l, with a large receive buffer.
func (b *binder) takePackets(l *listener, packets net.PacketConn) (err error) {
	l.at = packets.LocalAddr()
	l.takePort()
	if l.socket, err = b.poller.Detach(packets.(syscall.Conn)); err != nil {
		return err
	}
	l.receiveBuffer, err = recvbuf.Grow(l.socket.FD(), receiveBuffer)
	if err != nil {
		l.socket.Close()
	}
	return err
}

// takePort notes the port that the kernel gave.
func (l *listener) takePort() {
	if _, port, err := net.SplitHostPort(l.at.String()); err == nil {
		l.address.Port, _ = strconv.Atoi(port)
	}
}

func (b *binder) bindUnix(l *listener) error {
	a := l.address
	if err := removeStale(a); err != nil {
		return err
	}
	if a.Network == "unix" {
		stream, err := net.Listen("unix", a.Path)
		if err != nil {
			return err
		}
		l.take(stream)
	} else {
		packets, err := net.ListenPacket("unixgram", a.Path)
		if err == nil {
			err = b.takePackets(l, packets)
		}
		if err != nil {
			return err
		}
	}
	if err := setAccess(a); err != nil {
		l.close()
		return err
	}
	return nil
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

// bufferRemedy is what to type where the receive buffer is small.
func (l *listener) bufferRemedy() string {
	if l.passed {
		return "ReceiveBuffer=8M in the socket unit"
	}
	return "sysctl -w net.core.rmem_max=8388608"
}

// bears returns how long input may gather in the socket, at the most.
func (l *listener) bears() time.Duration {
	switch {
	case l.address.Network == "unixgram":
		return 0 // its queue holds ten datagrams, then the sender is blocked
	case l.isSmall():
		return smallPace
	}
	return maxCoalesce
}

// isPrivate says whether only this host can reach the socket.
func (l *listener) isPrivate() bool {
	addr, err := netip.ParseAddrPort(l.at.String())
	return err != nil || addr.Addr().IsLoopback()
}

// kernelDrops returns how many datagrams the kernel has dropped at the socket,
// since it is ours.
func (l *listener) kernelDrops() (n uint64, err error) {
	if l.address.Network != "udp" {
		return 0, errors.ErrUnsupported
	}
	err = l.socket.Use(func(fd int) (err error) {
		n, err = recvbuf.Drops(fd)
		return err
	})
	return n - l.earlierDrops, err
}
