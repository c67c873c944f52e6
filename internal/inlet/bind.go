package inlet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// ErrUnwantedSocket says that a socket was handed to us, at the start or later, for an address
// at which nothing is to listen: whoever sends there would wait for nobody.
var ErrUnwantedSocket = errors.New("systemd keeps a socket for it, and no listener is configured there")

// A binder finds or binds the sockets of a configuration. One goroutine uses it, once.
type binder struct {
	poller *poll.Poller
	have   []*Listener // bound by an earlier configuration, or by somebody else, and not asked for yet
}

// inherit takes descriptors of bound sockets that a supervisor holds as well. They outlive us,
// and what reaches them meanwhile waits for our successor.
func (b *binder) inherit(files []*os.File) (err error) {
	for _, f := range files {
		l, oneErr := newListener(b.poller, f, sockets.File{})
		if oneErr != nil {
			err = errors.Join(err, fmt.Errorf("passed descriptor %s: %w", f.Name(), oneErr))
			continue
		}
		l.Inherited = true
		b.have = append(b.have, l)
	}
	return err
}

// bindAll returns the sockets of specs. After an error nothing has changed, except that the
// inherited sockets that were asked for are closed.
func (b *binder) bindAll(ctx context.Context, specs []Spec) (bound []*Listener, err error) {
	defer func() {
		if err != nil {
			closeAll(slices.DeleteFunc(bound, (*Listener).hasBegun))
		}
	}()
	for _, s := range specs {
		err := sockets.Each(s.Address, func(a address.Address) (port int, err error) {
			l, err := b.bind(ctx, Spec{s.Protocol, a})
			if err != nil {
				return 0, err
			}
			bound = append(bound, l)
			return l.Address.Port, nil
		})
		if err != nil {
			isInTheWay := func(l *Listener) bool { return l.Address.Socket().Takes(s.Address.Socket()) }
			return bound, cmp.Or(b.unwanted(isInTheWay), fmt.Errorf("listen for %s on %s: %w", s.Protocol, s.Address, err))
		}
	}
	return bound, b.unwanted(func(*Listener) bool { return true })
}

// bind returns the socket of an address: one that is already bound, or a new one.
func (b *binder) bind(ctx context.Context, s Spec) (l *Listener, err error) {
	if i := slices.IndexFunc(b.have, func(l *Listener) bool { return l.serves(ctx, s) }); i >= 0 {
		l = b.have[i]
		b.have = slices.Delete(b.have, i, i+1)
		if l.isOurs() {
			return l, nil
		}
	} else {
		conn, file, err := sockets.Bind(ctx, s.Address)
		if err != nil {
			return nil, err
		}
		if l, err = newListener(b.poller, conn, file); err != nil {
			return nil, err
		}
	}
	l.take(s)
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
