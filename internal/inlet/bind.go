package inlet

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/recvbuf"
)

// A binder finds or binds the sockets of a configuration. One goroutine uses it,
// once.
type binder struct {
	poller    *poll.Poller
	have      []*Listener // bound by an earlier configuration, and not asked for yet
	inherited []socket    // bound by somebody else, and not asked for yet
	added     []*Listener // those that have only just become ours
}

// bindAll returns the sockets of specs. With an error, nothing has changed: but the
// inherited sockets are closed.
func (b *binder) bindAll(specs []Spec) (bound []*Listener, err error) {
	for _, s := range specs {
		ls, err := b.bind(s)
		if err != nil {
			return nil, b.undo(fmt.Errorf("listen for %s on %s: %w", s.Protocol, s.Address, err))
		}
		bound = append(bound, ls...)
	}
	if err := b.unwanted(); err != nil {
		return nil, b.undo(err)
	}
	return bound, nil
}

// undo closes what has only just become ours, because of err.
func (b *binder) undo(err error) error {
	for _, l := range b.added {
		l.close()
	}
	for _, s := range b.inherited {
		s.conn.Close()
	}
	return err
}

// bind returns the sockets of one address: localhost has one a family.
func (b *binder) bind(s Spec) ([]*Listener, error) {
	if strings.EqualFold(s.Address.Host, "localhost") {
		return b.bindLocalhost(s)
	}
	l, err := b.bindOne(s)
	return []*Listener{l}, err
}

// bindOne returns the socket of an address: one that is bound already, or a new
// one.
func (b *binder) bindOne(s Spec) (l *Listener, err error) {
	isBound := func(l *Listener) bool {
		return l.Protocol == s.Protocol && l.asked == s.Address && (l.path.name == "" || l.path.leads())
	}
	if i := slices.IndexFunc(b.have, isBound); i >= 0 {
		l = b.have[i]
		b.have = slices.Delete(b.have, i, i+1)
		return l, nil
	}
	l = &Listener{Protocol: s.Protocol, asked: s.Address, Address: s.Address}
	isThere := func(i socket) bool { return i.isAt(s.Address) }
	if i := slices.IndexFunc(b.inherited, isThere); i >= 0 {
		err = b.adopt(l, b.inherited[i])
		b.inherited = slices.Delete(b.inherited, i, i+1)
	} else {
		err = b.bindNew(l)
	}
	if err != nil {
		return nil, err
	}
	b.added = append(b.added, l)
	return l, nil
}

// bindLocalhost binds 127.0.0.1 and ::1 to one port. A family that the host
// lacks is passed over.
func (b *binder) bindLocalhost(s Spec) (both []*Listener, err error) {
	for range 10 {
		both, err = b.bindBoth(s)
		if s.Address.Port != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break // else the port that was free for IPv4 is taken for IPv6: another
		}
	}
	return both, err
}

func (b *binder) bindBoth(s Spec) (both []*Listener, err error) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		s.Address.Host = host
		l, oneErr := b.bindOne(s)
		switch {
		case oneErr == nil:
			both = append(both, l)
			s.Address.Port = l.Address.Port
		case isMissingFamily(oneErr):
			err = oneErr
		default:
			b.giveBack(both)
			return nil, oneErr
		}
	}
	if len(both) > 0 {
		err = nil
	}
	return both, err
}

func isMissingFamily(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

// giveBack undoes bindOne.
func (b *binder) giveBack(listeners []*Listener) {
	for _, l := range listeners {
		if i := slices.Index(b.added, l); i >= 0 {
			b.added = slices.Delete(b.added, i, i+1)
			l.close()
		} else {
			b.have = append(b.have, l)
		}
	}
}

// bindNew binds a new socket for l.
func (b *binder) bindNew(l *Listener) error {
	if !l.Address.IsUnix() {
		return b.take(l, l.Address.HostPort())
	}
	if err := removeStale(l.Address); err != nil {
		return err
	}
	err := b.take(l, l.Address.Path)
	if err != nil {
		return err
	}
	if l.path, err = newPath(l.Address.Path); err == nil {
		err = setAccess(l.Address)
	}
	if err != nil {
		l.close()
	}
	return err
}

// take binds a socket at address for l.
func (b *binder) take(l *Listener, address string) error {
	if l.IsStream() {
		stream, err := net.Listen(l.Address.Family(), address)
		if err != nil {
			return err
		}
		return b.own(l, stream.Addr(), stream.(syscall.Conn))
	}
	packets, err := net.ListenPacket(l.Address.Family(), address)
	if err != nil {
		return err
	}
	return b.own(l, packets.LocalAddr(), packets.(syscall.Conn))
}

// own makes conn, which is bound at an address, the socket of l: one of datagrams gets a
// large receive buffer.
func (b *binder) own(l *Listener, at net.Addr, conn syscall.Conn) (err error) {
	l.at = at
	l.takePort()
	if u, ok := conn.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // its path is ours to remove
	}
	if l.socket, err = b.poller.Detach(conn); err != nil {
		return err
	}
	switch {
	case !l.IsStream():
		l.ReceiveBuffer, err = recvbuf.Grow(l.socket.FD(), receiveBuffer)
	case !l.Address.IsUnix():
		err = keepAlive(l.socket.FD())
	}
	if err != nil {
		l.socket.Close()
	}
	return err
}

// adopt makes an inherited socket that of l. Whoever bound it has chosen who may
// reach it.
func (b *binder) adopt(l *Listener, s socket) error {
	l.Inherited = true
	if err := b.own(l, s.at, s.conn); err != nil {
		return err
	}
	if !l.IsStream() {
		l.earlierDrops, _ = recvbuf.Drops(l.socket.FD()) // where it is not known, it is not asked for later
	}
	return nil
}

// unwanted returns an error that names the inherited sockets which nothing of the
// configuration wants.
func (b *binder) unwanted() (err error) {
	for _, s := range b.inherited {
		err = errors.Join(err, fmt.Errorf("%s://%s: %w", s.at.Network(), s.at, ErrUnwantedSocket))
	}
	for _, l := range b.have {
		if l.Inherited {
			err = errors.Join(err, fmt.Errorf("%s for %s: %w", l.Address, l.Protocol, ErrUnwantedSocket))
		}
	}
	return err
}
