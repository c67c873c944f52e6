package inlet

import (
	"context"
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

const (
	// lastRead is how long the reader of a connection, once it is told to end, goes on with what the
	// sender was just sending.
	lastRead = 250 * time.Millisecond

	// drainTime bounds how long it takes what has reached the socket by then: a host that is busy
	// needs long for a full backlog, and some sender may never pause.
	drainTime = 2 * time.Second

	retryAccept = 10 * time.Millisecond // when accept(2) lacks a resource
)

// accept accepts connections on l, while there is room for them, until ctx ends; then it
// accepts those that already wait, unless they are for our successor.
func (in *Inlet) accept(ctx context.Context, l *Listener) {
	for ctx.Err() == nil {
		switch s, err := in.acceptOne(l, true); {
		case err == nil:
			in.read(ctx, l, s)
		case errors.Is(err, syscall.EAGAIN):
			l.socket.Wait(ctx, 0)
		case errors.Is(err, errFull):
			l.socket.Wait(ctx, 0) // nobody has to make room before somebody comes
			in.connections.awaitRoom(ctx)
		case !errors.Is(err, syscall.ECONNABORTED):
			if isShortage(err) {
				in.connections.ranOut(err)
			}
			retry.Sleep(ctx, retryAccept)
		}
	}
	if !l.Inherited {
		in.acceptRest(ctx, l)
	}
}

// acceptRest accepts all connections that wait, whatever the limit: they will end soon. It begins to
// read when it has them all: thousands of readers would keep it from the rest.
func (in *Inlet) acceptRest(ctx context.Context, l *Listener) {
	l.admitNoMore()
	var rest []*streamReader
	begin := func() {
		for _, s := range rest {
			in.read(ctx, l, s)
		}
		rest = nil
	}
	defer begin()
	drain(func() (int, error) {
		s, err := in.acceptOne(l, false)
		switch {
		case err == nil:
			rest = append(rest, s)
		case errors.Is(err, syscall.EAGAIN):
			return 0, err
		case isShortage(err):
			begin() // those that are open end soon
			retry.Sleep(context.WithoutCancel(ctx), retryAccept)
		}
		return 1, nil
	})
}

// drain calls read until that fails, for drainTime at most.
func drain(read func() (int, error)) {
	var err error
	for until := time.Now().Add(drainTime); err == nil && time.Now().Before(until); {
		_, err = read()
	}
}

// isShortage says whether accept failed for lack of descriptors or memory. Any other error
// concerns only the one connection.
func isShortage(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) ||
		errors.Is(err, syscall.ENOBUFS) || errors.Is(err, syscall.ENOMEM)
}

// acceptOne accepts a connection, without waiting. If there is to be room for it, and is none, the
// error is errFull.
func (in *Inlet) acceptOne(l *Listener, ifRoom bool) (*streamReader, error) {
	in.connections.mu.Lock()
	defer in.connections.mu.Unlock()
	if ifRoom && in.connections.open >= in.connections.most() {
		return nil, errFull
	}
	fd, peer, err := l.socket.Accept()
	if err != nil {
		return nil, err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // what is urgent keeps its place in the stream
	socket, err := in.poller.Own(fd)
	if err != nil {
		return nil, err
	}
	s := &streamReader{socket: socket, isUnix: l.Address.IsUnix(), pacer: in.pacer(l), connections: in.connections}
	s.framing.understands = s.isUnix && l.Protocol == line.StatsD
	s.handler = in.newHandler(l, func() string { return peer })
	in.connections.add(s)
	l.open.Add(1)
	return s, nil
}

// read starts the reader of a connection of l.
func (in *Inlet) read(ctx context.Context, l *Listener, s *streamReader) {
	l.readers.Go(func() {
		defer l.open.Add(-1)
		defer in.connections.leave(s)
		s.run(ctx)
	})
}
