package inlet

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lastRead bounds how long a reader goes on when it is told to end: with what has
// reached its socket, and on a connection with what its sender had in hand.
const lastRead = 250 * time.Millisecond

// connections counts those that are open, over all listeners.
type connections struct {
	log *slog.Logger

	mu      sync.Mutex
	limit   int    // open at one moment
	open    int    // of these
	refused uint64 // closed at once, over the limit
}

// set changes how many connections may be open. Those that are stay.
func (c *connections) set(s Settings) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = s.MaxConnections
}

// enter takes one of the connections that may be open, or notes that there are
// too many.
func (c *connections) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open < c.limit {
		c.open++
		return true
	}
	c.refused++
	if c.refused == 1 {
		c.log.Warn("connection limit reached; more are closed at once", "max_connections", c.limit)
	}
	return false
}

// leave gives it back.
func (c *connections) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
	if c.refused > 0 {
		c.log.Info("connections are accepted again", "refused", c.refused)
		c.refused = 0
	}
}

// accept accepts on l until ctx ends, and then what waits to be accepted, unless
// that is for our successor. It closes l, and returns when its connections are done.
func (in *Inlet) accept(ctx context.Context, l *Listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer l.close()
	for ctx.Err() == nil {
		err := in.acceptOne(ctx, l, &conns)
		switch {
		case errors.Is(err, syscall.EAGAIN):
			l.socket.Wait(ctx, 0)
		case err != nil:
			in.log.Warn("accept failed", "listener", l.Address, "err", err)
			pause(ctx, 100*time.Millisecond) // out of file descriptors: others may close theirs
		}
	}
	for until := time.Now().Add(lastRead); !l.Inherited && time.Now().Before(until); {
		if err := in.acceptOne(ctx, l, &conns); err != nil {
			return
		}
	}
}

// acceptOne accepts a connection, without waiting, and has it read.
func (in *Inlet) acceptOne(ctx context.Context, l *Listener, conns *sync.WaitGroup) error {
	fd, from, err := acceptFD(l.socket.FD())
	if err != nil {
		return err
	}
	socket, err := in.poller.Own(fd)
	if err != nil {
		return err
	}
	s := &streamReader{socket: socket, pacer: in.pacer(l)}
	s.handler = in.newHandler(l, func() string { return addressOf(from) })
	if !in.connections.enter() {
		s.glance()
		return nil
	}
	l.open.Add(1)
	conns.Go(func() {
		defer in.connections.leave()
		defer l.open.Add(-1)
		s.run(ctx)
	})
	return nil
}

// addressOf writes the address of a peer; "" where it has none.
func addressOf(from unix.Sockaddr) string {
	switch a := from.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)).String()
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)).String()
	case *unix.SockaddrUnix:
		return a.Name
	}
	return ""
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
