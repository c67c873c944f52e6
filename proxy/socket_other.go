//go:build unix && !linux

package proxy

import (
	"context"
	"os"
	"sync"
	"syscall"
	"time"
)

// A poller tells goroutines when their sockets can be read: here, it is the
// runtime's.
type poller struct{ ended chan struct{} }

func newPoller() (*poller, error) { return &poller{ended: make(chan struct{})}, nil }

// run returns when the poller is closed.
func (p *poller) run() { <-p.ended }

// look would wake those whose sockets can be read; the runtime does.
func (p *poller) look() {}

func (p *poller) close() { close(p.ended) }

// A socket is a socket that we read ourselves. One goroutine reads it.
type socket struct {
	file *os.File
	raw  syscall.RawConn

	mu sync.Mutex // held to close fd, and by others than the reader to use it
	fd int        // -1: closed
}

// own takes the descriptor fd.
func (p *poller) own(fd int) (*socket, error) {
	if err := syscall.SetNonblock(fd, true); err != nil { // so that the runtime polls it
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "socket")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, err
	}
	return &socket{file: file, raw: raw, fd: fd}, nil
}

// wait returns when the socket can be read, or has an error to tell; with the
// error of ctx when that ends; and with os.ErrDeadlineExceeded after limit,
// unless that is 0.
func (s *socket) wait(ctx context.Context, limit time.Duration) error {
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

// close closes the descriptor; more than once does no harm.
func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd >= 0 {
		s.file.Close()
		s.fd = -1
	}
}
