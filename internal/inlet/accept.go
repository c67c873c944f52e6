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

	// What waits at a socket that admits no more is all read, however long a busy host needs for it.
	// Only of who never pauses there is no end: these are more than the kernel keeps.
	mostWaiting = 1 << 16 // connections in a backlog
	mostUnread  = 64      // blocks of a stream
	mostPackets = 1 << 10 // times that datagrams are received

	retryAccept = 10 * time.Millisecond // when accept(2) lacks a resource
	lastRetry   = 2 * time.Second       // at the end, without success
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
	last := time.Now() // of which one could be accepted
	for range mostWaiting {
		s, err := in.acceptOne(l, false)
		switch {
		case err == nil:
			rest, last = append(rest, s), time.Now()
		case errors.Is(err, syscall.EAGAIN), time.Since(last) > lastRetry:
			return
		case isShortage(err):
			begin() // those that are open end soon
			retry.Sleep(context.WithoutCancel(ctx), retryAccept)
		}
	}
}

// drain calls read until it fails, but no more than most times.
func drain(most int, read func() (int, error)) {
	for range most {
		if _, err := read(); err != nil {
			return
		}
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
	s.handler = in.newHandler(l.Protocol, func() string { return peer })
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
