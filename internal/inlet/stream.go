package inlet

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/poll"
)

const (
	streamBlock = 112 << 10       // bytes read from a stream at a time
	busyBytes   = streamBlock / 2 // between two waits: the sender is as fast as we are, and the next wait is skipped
	crowd       = 8               // readers at work, of which more take turns
	packetSize  = 128             // supposed to come at a time: a stream's packets can't be seen
)

var blocks = sync.Pool{New: func() any { return new([streamBlock]byte) }}

// A streamReader reads one connection. The goroutine that runs it owns the socket.
type streamReader struct {
	socket      *poll.Socket
	isUnix      bool
	handler     Handler
	framing     framing
	pacer       pacer
	connections *connections
	hurry       bool         // at the end there is no time to wait for the sender
	ended       bool         // at our side; connections' mutex guards it
	lastTaken   atomic.Int64 // when the handler last took something, in ns since epoch
	tail        tail         // what the handler needs to see again
}

// run reads until the connection ends; or until ctx ends, and then the rest.
func (s *streamReader) run(ctx context.Context) {
	defer s.socket.Close()
	defer s.end()
	s.pacer.busy.Add(1)
	defer s.pacer.busy.Add(-1)
	burst := 0 // bytes since the last wait
	for ctx.Err() == nil {
		n, err := s.inTurn()
		burst += n
		isBusy := burst >= busyBytes
		switch {
		case err == nil && isBusy:
			continue
		case err != nil && !errors.Is(err, syscall.EAGAIN):
			return
		case isBusy: // a moment ago: it is, a little longer
			s.socket.Wait(ctx, max(time.Duration(s.pacer.coalesce.Load()), time.Millisecond))
		case !s.pacer.wait(ctx, (n+packetSize-1)/packetSize):
			s.pacer.busy.idle(func() {
				err := s.socket.Wait(ctx, time.Duration(s.pacer.timeout.Load()))
				if errors.Is(err, os.ErrDeadlineExceeded) && !s.hasInput() {
					s.connections.timedOut(s)
				}
			})
		}
		burst = 0
	}
	s.readRest(context.WithoutCancel(ctx))
}

// inTurn takes a step. Where many readers have something to do, one does at a time, and all else
// goes first: the lease would wait for each of them, and memory take a block for each.
func (s *streamReader) inTurn() (int, error) {
	if s.pacer.busy.Load() <= crowd {
		return s.step()
	}
	s.pacer.turns <- struct{}{}
	defer func() { <-s.pacer.turns }()
	defer runtime.Gosched()
	return s.step()
}

// readRest reads until the sender ends the connection, for lastRead at most: one that has only
// just connected may not have sent its lines yet.
func (s *streamReader) readRest(ctx context.Context) {
	s.shut(unix.SHUT_WR)
	ctx, cancel := context.WithTimeout(ctx, lastRead)
	defer cancel()
	for !s.hurry && ctx.Err() == nil {
		if _, err := s.inTurn(); errors.Is(err, syscall.EAGAIN) {
			s.pacer.busy.idle(func() { s.socket.Wait(ctx, 0) })
		} else if err != nil {
			return
		}
	}
	s.shut(unix.SHUT_RD)
	drain(mostUnread, s.inTurn)
}

// shut ends one direction of the connection: SHUT_WR tells the sender; after SHUT_RD the
// reader finds the end behind what has arrived. Any goroutine may call it.
func (s *streamReader) shut(how int) {
	s.socket.Use(func(fd int) error { return unix.Shutdown(fd, how) }) // an error: it has ended
}

// hasInput says whether something has arrived that is still unread. Any goroutine may call it.
func (s *streamReader) hasInput() (has bool) {
	s.socket.Use(func(fd int) error {
		has = poll.HasInput(fd)
		return nil
	})
	return has
}

// touch notes that it is not idle. A line that comes byte by byte is no sign of that.
func (s *streamReader) touch(now time.Time) { s.lastTaken.Store(int64(now.Sub(epoch))) }

// end gives the handler what is left.
func (s *streamReader) end() {
	block := blocks.Get().(*[streamBlock]byte)
	defer blocks.Put(block)
	if kept, lost := s.connections.tailOf(s, block[:]); kept > 0 {
		s.hand(block[:kept], kept, lost, s.framing.end)
	}
}

// step reads a block, without waiting, and hands it over. It returns how much it read, EAGAIN
// if there is nothing, and io.EOF at the end of the connection.
func (s *streamReader) step() (int, error) {
	block := blocks.Get().(*[streamBlock]byte)
	defer blocks.Put(block) // an idle connection holds no memory
	kept, lost := s.connections.tailOf(s, block[:])
	n, err := s.socket.Read(block[kept:])
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	s.hand(block[:kept+n], kept, lost, s.framing.take)
	if s.framing.kind == refused {
		s.finish() // its sender is told
	}
	return n, nil
}

// hand hands data over by take, and keeps what that leaves. The first kept bytes were kept
// before; if more were lost of those, they are dropped.
func (s *streamReader) hand(data []byte, kept, lost int, take func(Handler, []byte) (rest []byte)) {
	now := time.Now()
	s.handler.Begin(now)
	if lost > 0 {
		s.handler.Drop(TooLong, data[:kept])
		if s.framing.left -= lost; s.framing.kind == unknown { // a request
			s.framing.kind = refused
		}
		data = data[kept:]
	}
	rest := take(s.handler, data)
	s.handler.End()
	if len(rest) < len(data) {
		s.touch(now)
	}
	s.connections.keep(s, rest)
}

// finish ends our side of the connection; what has come is read. From then on, a unix socket
// refuses what its sender writes; by TCP it can't be told at once. Any goroutine may call it.
func (s *streamReader) finish() {
	how := unix.SHUT_WR
	if s.isUnix {
		how = unix.SHUT_RDWR
	}
	s.shut(how)
}
