package inlet

import (
	"context"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/pulse"
)

// A Handler takes what one socket brings. Only the socket's reader calls it, once per read:
//
//	Begin (Stream | Datagram | Drop)* End
//
// It only reads the slices that it is given, and keeps none.
type Handler interface {
	// Begin says that what follows arrived at this time.
	Begin(at time.Time)

	// Stream takes what a stream brought. It returns the end of data if it needs to see more
	// first: that comes again, in front of what the stream brings next. It is no longer than
	// MaxRest.
	Stream(data []byte) (rest []byte)

	// Datagram takes a datagram, or what is left of a packet in a framed stream. lost is how
	// many bytes were cut off its end.
	Datagram(data []byte, lost int)

	// Drop takes bytes of a stream that will not come again.
	Drop(why Reason, data []byte)

	// End says that the read is over. It never blocks.
	End()
}

// MaxRest bounds, in bytes, what a Handler may leave of a stream.
const MaxRest = line.MaxLen + 1<<10

// A Reason says why a Handler is to drop bytes.
type Reason uint8

// Why bytes are dropped.
const (
	Unterminated Reason = iota // the stream has ended
	TooLong                    // what is behind them up to the end of the line, or of the packet, is not to be seen either
	Misframed                  // the stream is cut into packets in a way that is not understood
)

// Settings steer an Inlet. They may change while it runs.
type Settings struct {
	Coalesce       time.Duration // how long input may gather; 0: it is handled at once
	MaxConnections int           // open at one moment
	IdleTimeout    time.Duration // of a connection; 0: none
}

// MaxCoalesce bounds Settings.Coalesce.
const MaxCoalesce = time.Second

// A Spec asks for the sockets of one address.
type Spec struct {
	Protocol line.Protocol
	Address  address.Address
}

// An Inlet reads from sockets. One goroutine calls Bind, Begin, Rebind, and Wait, in this order;
// any goroutine may ask for the rest.
type Inlet struct {
	log        *slog.Logger
	newHandler func(p line.Protocol, peer func() string) Handler

	poller      *poll.Poller   // of the sockets, from Bind on
	polling     sync.WaitGroup // of it
	gathering   gathering
	connections *connections
	bound       atomic.Pointer[[]*Listener]
}

// New returns an Inlet. newHandler makes the Handler of a socket or a connection; peer names the
// sender of what the Handler is being given.
func New(log *slog.Logger, newHandler func(p line.Protocol, peer func() string) Handler) *Inlet {
	in := &Inlet{log: log, newHandler: newHandler, connections: newConnections(log)}
	in.gathering.turns = make(chan struct{}, runtime.GOMAXPROCS(0))
	in.bound.Store(&[]*Listener{})
	return in
}

// Bind binds all sockets that are asked for, or none. Its error names the address; it is an
// ErrUnwantedSocket if an inherited socket is not asked for. It takes inherited: descriptors of
// bound sockets, which somebody else holds too and will hand to our successor.
func (in *Inlet) Bind(ctx context.Context, specs []Spec, inherited []*os.File) (err error) {
	if in.poller, err = poll.New(); err != nil {
		return err
	}
	b := binder{poller: in.poller}
	if err = b.inherit(inherited); err == nil {
		err = in.bind(ctx, &b, specs)
	}
	if err != nil {
		closeAll(b.have)
		in.poller.Close()
	}
	return err
}

// bind makes the sockets of specs the bound ones.
func (in *Inlet) bind(ctx context.Context, b *binder, specs []Spec) error {
	bound, err := b.bindAll(ctx, specs)
	if err == nil {
		in.bound.Store(&bound)
	}
	return err
}

// Listeners returns the bound sockets. They may have been closed.
func (in *Inlet) Listeners() []*Listener {
	return *in.bound.Load()
}

// Owns says whether dialing at, in a network as package net calls it, reaches one of the bound
// sockets.
func (in *Inlet) Owns(network, at string) bool {
	u, err := address.ParseUpstream(network + "://" + at)
	to := u.Socket()
	return err == nil && slices.ContainsFunc(in.Listeners(), func(l *Listener) bool { return to.Reaches(l.at.Socket()) })
}

// Gathers says whether more than one reader lets input gather: they read at the same instants, one
// right behind the other.
func (in *Inlet) Gathers() bool { return in.gathering.waiting.Load() > 1 }

// Begin begins to read, until ctx ends, and then what has reached the sockets by then; but what
// waits at inherited ones is left to our successor.
func (in *Inlet) Begin(ctx context.Context, s Settings) {
	in.polling.Go(in.poller.Run)
	in.follow(ctx, s, nil)
}

// Rebind continues with the sockets of specs, until ctx ends. Those that are already bound stay
// open, with their connections. New ones are bound first; after an error, nothing has changed.
// Rebind returns when the sockets that are no longer asked for are drained and closed.
func (in *Inlet) Rebind(ctx context.Context, specs []Spec, s Settings) error {
	b := binder{poller: in.poller, have: slices.Clone(in.Listeners())}
	if err := in.bind(ctx, &b, specs); err != nil {
		return err
	}
	in.follow(ctx, s, b.have)
	return nil
}

// Wait returns when nothing is read any more, and all sockets are closed.
func (in *Inlet) Wait() {
	for _, l := range in.Listeners() {
		l.readers.Wait()
	}
	in.poller.Close()
	in.polling.Wait()
}

// Loops returns the loops that wait for sockets and that read datagrams. It is to be called
// after Bind.
func (in *Inlet) Loops() []pulse.Loop {
	all := []pulse.Loop{&in.poller.Pulse}
	for _, l := range in.Listeners() {
		all = append(all, &l.pulse)
	}
	return all
}

// follow starts reading from the listeners that are new, and stops reading from some that are gone.
func (in *Inlet) follow(ctx context.Context, s Settings, gone []*Listener) {
	in.gathering.set(s, in.Listeners())
	in.connections.set(s)
	for _, l := range in.Listeners() {
		if l.hasBegun() {
			continue
		}
		in.announce(l)
		ctx, stop := context.WithCancel(ctx)
		l.stop = stop
		l.readers.Go(func() {
			defer l.stop()
			defer l.close()
			if l.IsStream() {
				in.accept(ctx, l)
			} else {
				in.receive(ctx, l)
			}
		})
	}
	for _, l := range gone {
		l.stop()
	}
	for _, l := range gone {
		l.readers.Wait()
		in.log.Info("listening no more", "protocol", l.Protocol.String(), "listener", l.Address)
	}
}

// announce logs that we listen, and what there is to know about it.
func (in *Inlet) announce(l *Listener) {
	attrs := []any{"protocol", l.Protocol.String(), "listener", l.Address}
	if !l.IsStream() {
		attrs = append(attrs, "receive_buffer", l.ReceiveBuffer)
	}
	remedy := "sysctl -w net.core.rmem_max=8388608"
	if l.Inherited {
		attrs, remedy = append(attrs, "inherited", true), "ReceiveBuffer=8M in the socket unit"
	}
	in.log.Info("listening", attrs...)
	if l.isSmall() {
		in.log.Warn("small receive buffer: input gathers 1ms at most, and bursts may be lost",
			"listener", l.Address, "receive_buffer", l.ReceiveBuffer, "remedy", remedy)
	}
}
