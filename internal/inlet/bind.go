package inlet

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/unixsocket"
)

// A binder finds or binds the sockets of a configuration. One goroutine uses it, once.
type binder struct {
	poller *poll.Poller
	have   []*Listener // bound by an earlier configuration, or by somebody else, and not asked for yet
	added  []*Listener // those that have only just become ours
}

// bindAll returns the sockets of specs. After an error nothing has changed, except that the
// inherited sockets that were asked for are closed.
func (b *binder) bindAll(specs []Spec) (bound []*Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(b.added)
		}
	}()
	for _, s := range specs {
		ls, err := b.bind(s)
		if err != nil {
			isInTheWay := func(l *Listener) bool { return l.Address.Takes(s.Address) }
			return nil, cmp.Or(b.unwanted(isInTheWay), fmt.Errorf("listen for %s on %s: %w", s.Protocol, s.Address, err))
		}
		bound = append(bound, ls...)
	}
	return bound, b.unwanted(func(*Listener) bool { return true })
}

// bind returns the sockets of one address: localhost has one per family.
func (b *binder) bind(s Spec) ([]*Listener, error) {
	if strings.EqualFold(s.Address.Host, "localhost") {
		return b.bindLocalhost(s)
	}
	l, err := b.bindOne(s)
	return []*Listener{l}, err
}

// bindOne returns the socket of an address: one that is already bound, or a new one.
func (b *binder) bindOne(s Spec) (l *Listener, err error) {
	if i := slices.IndexFunc(b.have, func(l *Listener) bool { return l.serves(s) }); i >= 0 {
		l = b.have[i]
		b.have = slices.Delete(b.have, i, i+1)
		if l.isOurs() {
			return l, nil
		}
	} else if l, err = bindNew(b.poller, s.Address); err != nil {
		return nil, err
	}
	l.take(s)
	b.added = append(b.added, l)
	return l, nil
}

// bindLocalhost binds 127.0.0.1 and ::1 to the same port. It skips a family that the host
// lacks.
func (b *binder) bindLocalhost(s Spec) (both []*Listener, err error) {
	for range 10 {
		have, added := slices.Clone(b.have), len(b.added)
		both, err = b.bindBoth(s)
		if s.Address.Port != 0 || !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		closeAll(b.added[added:]) // the port that was free for IPv4 is taken for IPv6: another
		b.have, b.added = have, b.added[:added]
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

// defaultMode lets a unix socket's user and group write to it.
const defaultMode = 0o660

// bindNew binds a new socket.
func bindNew(poller *poll.Poller, a address.Address) (*Listener, error) {
	if !a.IsUnix() {
		return listen(poller, a, a.HostPort())
	}
	if err := unixsocket.RemoveStale(a.Network, a.Path); err != nil {
		return nil, err
	}
	l, err := listen(poller, a, a.Path)
	if err != nil {
		return nil, err
	}
	if l.file, err = unixsocket.Bound(a.Path); err == nil {
		err = unixsocket.SetAccess(a.Path, os.FileMode(cmp.Or(a.Mode, defaultMode)), a.Group)
	}
	if err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// listen binds a socket at the address at, which is a in the form of package net.
func listen(poller *poll.Poller, a address.Address, at string) (*Listener, error) {
	if isStream(a.Network) {
		stream, err := net.Listen(a.Family(), at)
		if err != nil {
			return nil, err
		}
		if u, ok := stream.(*net.UnixListener); ok {
			u.SetUnlinkOnClose(false) // its path is ours to remove
		}
		return newListener(poller, stream.Addr(), stream.(syscall.Conn))
	}
	packets, err := net.ListenPacket(a.Family(), at)
	if err != nil {
		return nil, err
	}
	return newListener(poller, packets.LocalAddr(), packets.(syscall.Conn))
}

// unwanted returns an error that names the inherited sockets that nobody has asked for, of
// those that are meant.
func (b *binder) unwanted(isMeant func(*Listener) bool) (err error) {
	for _, l := range b.have {
		if l.Inherited && isMeant(l) {
			err = errors.Join(err, fmt.Errorf("%s: %w", l.Address, ErrUnwantedSocket))
		}
	}
	return err
}

func closeAll(ls []*Listener) {
	for _, l := range ls {
		l.close()
	}
}
