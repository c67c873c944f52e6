package inlet

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// streamBlock is how much is read at once from a stream, in bytes.
const streamBlock = 64 << 10

// busyBytes is what must come between two waits for input not to gather in the
// next one: the sender is as fast as we are, and may be waiting for us to make
// room.
const busyBytes = streamBlock / 2

var blocks = sync.Pool{New: func() any { return new([streamBlock]byte) }}

// A streamReader reads one connection. One goroutine runs it; it owns the
// socket.
type streamReader struct {
	socket  *poll.Socket
	handler Handler
	pacer   pacer

	tail []byte // what the handler needs to see again; nil where that is nothing
}

// run reads until the connection ends or is idle for too long; or until ctx
// ends, and then the rest.
func (s *streamReader) run(ctx context.Context) {
	defer s.socket.Close()
	defer s.end()
	s.pacer.busy.Add(1)
	defer s.pacer.busy.Add(-1)
	burst := 0 // bytes since the last wait
	for ctx.Err() == nil {
		n, err := s.step()
		burst += n
		switch {
		case errors.Is(err, syscall.EAGAIN) && burst >= busyBytes:
			err = s.awaitMore(ctx)
			burst = 0
		case errors.Is(err, syscall.EAGAIN):
			s.pacer.busy.idle(func() { err = s.socket.Wait(ctx, s.pacer.idleTimeout()) })
			burst = 0
		case err == nil && burst < busyBytes:
			s.pacer.wait(ctx)
			burst = 0
		}
		if err != nil && ctx.Err() == nil {
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

// end gives the handler what is left.
func (s *streamReader) end() {
	if len(s.tail) > 0 {
		s.handler.Begin(time.Now())
		s.handler.Drop(Unterminated, s.tail)
		s.handler.End()
	}
}

// step reads a block, without waiting, and hands it over. It returns how much it
// read, EAGAIN when there is nothing, and io.EOF at the end of the connection.
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

// handle hands data over, which begins with s.tail, and keeps the rest.
func (s *streamReader) handle(data []byte) {
	s.handler.Begin(time.Now())
	rest := s.handler.Stream(data)
	s.handler.End()
	s.tail = append(s.tail[:0], rest...)
	if len(rest) == 0 {
		s.tail = nil
	}
}
