package testbed

import (
	"bufio"
	"cmp"
	"fmt"
	"net"
	"sync"
	"syscall"
	"testing"
)

// A Sink is an upstream that keeps every line it receives, by TCP.
type Sink struct {
	Addr string // host:port
	*Output

	mu      sync.Mutex
	conns   []net.Conn
	wg      sync.WaitGroup
	reading chan struct{} // closed when it reads
}

// StartSink starts a sink on a free port. It ends with the test.
func StartSink(t testing.TB) *Sink {
	t.Helper()
	s := StartStalledSink(t)
	s.Read()
	return s
}

// StartStalledSink starts a sink that accepts connections, and reads nothing
// until Read is called. Its kernel takes some KiB all the same.
func StartStalledSink(t testing.TB) *Sink {
	t.Helper()
	listener := net.ListenConfig{Control: smallReceiveBuffer}
	ln, err := listener.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Sink{Addr: ln.Addr().String(), Output: NewOutput(), reading: make(chan struct{})}
	s.wg.Go(func() { s.accept(ln) })
	t.Cleanup(func() {
		ln.Close()
		s.closeAll()
		s.wg.Wait()
	})
	return s
}

// smallReceiveBuffer makes the kernel take no more than some KiB unread.
func smallReceiveBuffer(_, _ string, conn syscall.RawConn) (err error) {
	controlErr := conn.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10)
	})
	return cmp.Or(err, controlErr)
}

// Read lets a stalled sink read.
func (s *Sink) Read() { close(s.reading) }

func (s *Sink) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		s.mu.Lock()
		s.conns = append(s.conns, conn)
		s.mu.Unlock()
		s.wg.Go(func() { s.read(conn) })
	}
}

// read keeps whole lines, so that two connections don't mix.
func (s *Sink) read(conn net.Conn) {
	defer conn.Close()
	<-s.reading
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		fmt.Fprintln(s.Output, lines.Text())
	}
}

func (s *Sink) closeAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, conn := range s.conns {
		conn.Close()
	}
}
