package proxy

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// streamBlock is how much is read at once from a stream, in bytes.
const streamBlock = 64 << 10

// maxTail bounds an unfinished line, in bytes: rewriting cannot make a longer
// one short enough.
const maxTail = line.MaxLen + 1<<10

// busyBytes is what must come between two waits for input not to gather in the
// next one: the sender is as fast as we are, and may be waiting for us to make
// room.
const busyBytes = streamBlock / 2

// lastRead bounds how long a reader goes on when it is told to end: with what has
// reached its socket, and on a connection with what its sender had in hand.
const lastRead = 250 * time.Millisecond

var blocks = sync.Pool{New: func() any { return new([streamBlock]byte) }}

// acceptor accepts the connections of all stream listeners.
type acceptor struct {
	log *slog.Logger

	// reader returns the reader of a connection, which it takes; nil: none.
	reader func(l *listener, conn net.Conn) *streamReader

	mu      sync.Mutex
	limit   int    // connections open at one moment
	open    int    // of these
	refused uint64 // connections closed at once, over the limit
}

// run accepts on l until ctx ends, and then what waits to be accepted, unless that
// is for our successor. It closes l, and returns when its connections are done.
func (a *acceptor) run(ctx context.Context, l *listener) {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer l.close()
	stop := context.AfterFunc(ctx, l.interrupt)
	defer stop()
	take := func(conn net.Conn) {
		s := a.reader(l, conn)
		switch {
		case s == nil:
		case !a.enter():
			s.glance()
		default:
			conns.Go(func() {
				defer a.leave()
				s.run(ctx)
			})
		}
	}
	for !isPast(ctx) {
		conn, err := l.stream.Accept()
		switch {
		case err == nil:
			take(conn)
		case !isPast(ctx):
			a.log.Warn("accept failed", "listener", l.address, "err", err)
			pause(ctx, 100*time.Millisecond) // out of file descriptors: others may close theirs
		}
	}
	for until := time.Now().Add(lastRead); !l.passed && time.Now().Before(until); {
		conn, err := acceptNow(l.stream)
		if err != nil {
			return
		}
		take(conn)
	}
}

// acceptNow accepts a connection that waits for it; EAGAIN: there is none.
func acceptNow(l net.Listener) (net.Conn, error) {
	raw, err := l.(syscall.Conn).SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	ctlErr := raw.Control(func(listening uintptr) { fd, _, err = syscall.Accept(int(listening)) })
	if err = errors.Join(err, ctlErr); err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "connection")
	defer f.Close() // package net duplicates it
	return net.FileConn(f)
}

// enter takes one of the connections that may be open, or notes that there are
// too many.
func (a *acceptor) enter() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.open < a.limit {
		a.open++
		return true
	}
	a.refused++
	if a.refused == 1 {
		a.log.Warn("connection limit reached; more are closed at once", "max_connections", a.limit)
	}
	return false
}

// setLimit changes how many connections may be open. Those that are stay.
func (a *acceptor) setLimit(limit int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.limit = limit
}

// leave gives it back.
func (a *acceptor) leave() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.open--
	if a.refused > 0 {
		a.log.Info("connections are accepted again", "refused", a.refused)
		a.refused = 0
	}
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// A streamReader reads one connection. One goroutine runs it; it owns the
// socket.
type streamReader struct {
	socket *poll.Socket
	ingest *ingest
	queue  queue
	naming *naming
	pacer  pacer

	tail     []byte // an unfinished line, kept between two reads; nil between lines
	skipping bool   // within a line that is too long
}

// run reads until the connection ends or is idle for too long; or until ctx
// ends, and then the rest.
func (s *streamReader) run(ctx context.Context) {
	defer s.socket.Close()
	defer s.end()
	s.pacer.busy.Add(1)
	defer s.pacer.busy.Add(-1)
	burst := 0 // bytes since the last wait
	for !isPast(ctx) {
		n, err := s.step()
		burst += n
		switch {
		case errors.Is(err, syscall.EAGAIN) && burst >= busyBytes:
			err = s.awaitMore(ctx)
			burst = 0
		case errors.Is(err, syscall.EAGAIN):
			s.pacer.busy.idle(func() { err = s.socket.Wait(ctx, s.pacer.waits.idle()) })
			burst = 0
		case err == nil && burst < busyBytes:
			s.pacer.wait(ctx)
			burst = 0
		}
		if err != nil && !isPast(ctx) {
			return
		}
	}
	s.readRest(context.WithoutCancel(ctx))
}

// glance takes what the connection has brought already, and closes it: after a
// restart, more of them may have waited than may be open at once.
func (s *streamReader) glance() {
	defer s.socket.Close()
	defer s.end()
	for until := time.Now().Add(lastRead); time.Now().Before(until); {
		if _, err := s.step(); err != nil {
			return
		}
	}
}

// readRest reads until the sender closes the connection, for lastRead at the most:
// one that has only just connected may not have sent its lines yet.
func (s *streamReader) readRest(ctx context.Context) {
	until := time.Now().Add(lastRead)
	for left := lastRead; left > 0; left = time.Until(until) {
		_, err := s.step()
		if errors.Is(err, syscall.EAGAIN) {
			s.pacer.busy.idle(func() { err = s.socket.Wait(ctx, left) })
		}
		if err != nil {
			return
		}
	}
}

// awaitMore waits for a sender that was fast a moment ago, and counts as busy
// meanwhile; but not for long.
func (s *streamReader) awaitMore(ctx context.Context) error {
	err := s.socket.Wait(ctx, max(s.pacer.every(), time.Millisecond))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// end drops a line that was never finished: a cut value is a wrong value.
func (s *streamReader) end() {
	if len(s.tail) > 0 {
		s.ingest.at = time.Now()
		s.ingest.drop(unterminated, s.tail)
		s.queue.accept(&s.ingest.tally)
	}
}

// step reads a block, without waiting, and hands its lines over. It returns how
// much it read, EAGAIN when there is nothing, and io.EOF at the end of the
// connection.
func (s *streamReader) step() (int, error) {
	block := blocks.Get().(*[streamBlock]byte)
	defer blocks.Put(block) // an idle connection holds no memory
	n, err := s.socket.Read(block[copy(block[:], s.tail):])
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	s.handle(block[:len(s.tail)+n])
	return n, nil
}

// handle takes the lines of data and keeps what is unfinished. data begins
// with s.tail.
func (s *streamReader) handle(data []byte) {
	s.ingest.begin(time.Now(), s.naming.current(s.queue))
	if s.skipping {
		data = s.skip(data)
	}
	rest := s.ingest.stream(data)
	if len(rest) > maxTail {
		s.ingest.drop(tooLong, rest)
		s.skipping, rest = true, nil
	}
	s.queue.accept(&s.ingest.tally, s.ingest.end()...)
	s.tail = append(s.tail[:0], rest...)
	if len(rest) == 0 {
		s.tail = nil
	}
}

// skip passes over the rest of a line that was dropped.
func (s *streamReader) skip(data []byte) []byte {
	end := bytes.IndexByte(data, '\n')
	if end < 0 {
		return nil
	}
	s.skipping = false
	return data[end+1:]
}
