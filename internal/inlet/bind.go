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
	inherited []inherited // bound by somebody else, and not asked for yet
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
		s.close()
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
	isBound := func(l *Listener) bool { return l.Protocol == s.Protocol && l.asked == s.Address }
	if i := slices.IndexFunc(b.have, isBound); i >= 0 {
		l = b.have[i]
		b.have = slices.Delete(b.have, i, i+1)
		return l, nil
	}
	l = &Listener{Protocol: s.Protocol, asked: s.Address, Address: s.Address}
	isThere := func(i inherited) bool { return i.isAt(s.Address) }
	if i := slices.IndexFunc(b.inherited, isThere); i >= 0 {
		err = b.adopt(l, b.inherited[i])
		b.inherited = slices.Delete(b.inherited, i, i+1)
	} else if s.Address.IsUnix() {
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
func (b *binder) giveBack(l *Listener) {
	if i := slices.Index(b.added, l); i >= 0 {
		b.added = slices.Delete(b.added, i, i+1)
		l.close()
	} else {
		b.have = append(b.have, l)
	}
}

// bindLocalhost binds 127.0.0.1 and ::1 to one port. A family that the host
// lacks is passed over.
func (b *binder) bindLocalhost(s Spec) ([]*Listener, error) {
	v4, v6 := s, s
	v4.Address.Host, v6.Address.Host = "127.0.0.1", "::1"
	for attempt := 0; ; attempt++ {
		l4, err4 := b.bindOne(v4)
		if err4 != nil && !isMissingFamily(err4) {
			return nil, err4
		}
		if err4 == nil {
			v6.Address.Port = l4.Address.Port
		}
		l6, err6 := b.bindOne(v6)
		switch {
		case err4 == nil && err6 == nil:
			return []*Listener{l4, l6}, nil
		case err4 == nil && isMissingFamily(err6):
			return []*Listener{l4}, nil
		case err4 != nil && err6 == nil:
			return []*Listener{l6}, nil
		case err4 != nil:
			return nil, err4
		}
		b.giveBack(l4)
		if s.Address.Port != 0 || attempt == 10 {
			return nil, err6
		}
		v6.Address.Port = 0 // the port that was free for IPv4 is taken for IPv6: another
	}
}

func isMissingFamily(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

func (b *binder) bindInet(l *Listener) error {
	if l.Address.Network == "tcp" {
		stream, err := net.Listen(l.Address.Family(), l.Address.HostPort())
		if err != nil {
			return err
		}
		return b.takeStream(l, stream)
	}
	packets, err := net.ListenPacket(l.Address.Family(), l.Address.HostPort())
	if err != nil {
		return err
	}
	return b.takePackets(l, packets)
}

// takeStream makes stream the socket of l.
func (b *binder) takeStream(l *Listener, stream net.Listener) (err error) {
	l.at = stream.Addr()
	l.takePort()
	if u, ok := stream.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // its path is ours to remove
	}
	if l.socket, err = b.poller.Detach(stream.(syscall.Conn)); err != nil || l.Address.IsUnix() {
		return err
	}
	if err = keepAlive(l.socket.FD()); err != nil {
		l.socket.Close()
	}
	return err
}

// takePackets makes packets the socket of l, with a large receive buffer.
func (b *binder) takePackets(l *Listener, packets net.PacketConn) (err error) {
	l.at = packets.LocalAddr()
	l.takePort()
	if l.socket, err = b.poller.Detach(packets.(syscall.Conn)); err != nil {
		return err
	}
	l.ReceiveBuffer, err = recvbuf.Grow(l.socket.FD(), receiveBuffer)
	if err != nil {
		l.socket.Close()
	}
	return err
}

func (b *binder) bindUnix(l *Listener) (err error) {
	a := l.Address
	if err := removeStale(a); err != nil {
		return err
	}
	if err := b.bindPath(l); err != nil {
		return err
	}
	if l.path, err = newPath(a.Path); err == nil {
		err = setAccess(a)
	}
	if err != nil {
		l.close()
	}
	return err
}

func (b *binder) bindPath(l *Listener) error {
	if l.IsStream() {
		stream, err := net.Listen("unix", l.Address.Path)
		if err != nil {
			return err
		}
		return b.takeStream(l, stream)
	}
	packets, err := net.ListenPacket("unixgram", l.Address.Path)
	if err != nil {
		return err
	}
	return b.takePackets(l, packets)
}

// unwanted returns an error that names the inherited sockets which nothing of the
// configuration wants.
func (b *binder) unwanted() (err error) {
	for _, s := range b.inherited {
		err = errors.Join(err, fmt.Errorf("%s://%s: %w", s.at().Network(), s.at(), ErrUnwantedSocket))
	}
	for _, l := range b.have {
		if l.Inherited {
			err = errors.Join(err, fmt.Errorf("%s for %s: %w", l.Address, l.Protocol, ErrUnwantedSocket))
		}
	}
	return err
}

// adopt makes an inherited socket that of l. Whoever bound it has chosen who may
// reach it.
func (b *binder) adopt(l *Listener, s inherited) error {
	l.Inherited = true
	if s.stream != nil {
		return b.takeStream(l, s.stream)
	}
	if err := b.takePackets(l, s.packets); err != nil {
		return err
	}
	l.earlierDrops, _ = recvbuf.Drops(l.socket.FD()) // where it is not known, it is not asked for later
	return nil
}
