//go:build unix && !linux

package poll

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/pulse"
)

// A Poller tells goroutines when their sockets can be read: here, it is the
// runtime's.
type Poller struct {
	ended chan struct{}
	Pulse pulse.Pulse // of Run, which only waits
}

func New() (*Poller, error) { return &Poller{ended: make(chan struct{})}, nil }

// Run returns when the poller is closed.
func (p *Poller) Run() { <-p.ended }

// Nap would sleep without giving the processor to another goroutine; here it does nothing.
func (p *Poller) Nap(time.Duration) bool { return false }

func (p *Poller) Close() { close(p.ended) }

// A Socket is a socket that we read ourselves. One goroutine reads it.
type Socket struct {
	file *os.File
	raw  syscall.RawConn

	mu sync.Mutex // held to close fd, and by others than the reader to use it
	fd int        // -1: closed
}

// Own takes the descriptor fd.
func (p *Poller) Own(fd int) (*Socket, error) {
	if err := syscall.SetNonblock(fd, true); err != nil { // so that the runtime polls it
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "socket")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &Socket{file: file, raw: raw, fd: fd}, nil
}

// Wait returns when the socket can be read, or has an error to tell; with the
// error of ctx when that ends; and with os.ErrDeadlineExceeded after limit,
// unless that is 0.
func (s *Socket) Wait(ctx context.Context, limit time.Duration) error {
	var deadline time.Time
	if limit > 0 {
		deadline = time.Now().Add(limit)
	}
	s.file.SetReadDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { s.file.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	asked := false
	err := s.raw.Read(func(uintptr) bool {
		again := asked
		asked = true
		return again
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Accept accepts a connection, without waiting; EAGAIN where none has come. Own makes it one that
// does not block. The address of its peer is not told here.
func (s *Socket) Accept() (fd int, peer string, err error) {
	fd, _, err = unix.Accept(s.fd)
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return fd, "", err
}

// Close closes the descriptor; more than once does no harm.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		s.file.Close()
		s.fd = -1
	}
}
