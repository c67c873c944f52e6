package inlet

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
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
		if err := b.bind(s, &bound); err != nil {
			isInTheWay := func(l *Listener) bool { return l.Address.Takes(s.Address) }
			return nil, cmp.Or(b.unwanted(isInTheWay), fmt.Errorf("listen for %s on %s: %w", s.Protocol, s.Address, err))
		}
	}
	return bound, b.unwanted(func(*Listener) bool { return true })
}

// bind adds the sockets of one address to bound: localhost has one per family.
func (b *binder) bind(s Spec, bound *[]*Listener) error {
	return sockets.Each(s.Address, func(a address.Address) (port int, err error) {
		l, err := b.bindOne(Spec{s.Protocol, a})
		if err != nil {
			return 0, err
		}
		*bound = append(*bound, l)
		return l.Address.Port, nil
	})
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

// defaultMode lets a unix socket's user and group write to it.
const defaultMode = 0o660

// bindNew binds a new socket.
func bindNew(poller *poll.Poller, a address.Address) (*Listener, error) {
	a.Mode = cmp.Or(a.Mode, defaultMode)
	conn, file, err := sockets.Bind(a)
	if err != nil {
		return nil, err
	}
	l, err := newListener(poller, conn)
	if err != nil {
		file.Remove()
		return nil, err
	}
	l.file = file
	return l, nil
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
