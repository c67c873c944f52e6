package testbed

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// A manner is how a receiver treats who sends to it. The zero one reads all
// that comes.
type manner struct {
	Refuse     bool          // close all connections, and refuse new ones
	Stall      bool          // accept connections and read nothing
	PerSecond  int           // bytes that are read in a second, of all connections together; 0: all
	Lose       bool          // count nothing of what is read, as a balancer that has nobody to give it to
	HangUp     time.Duration // close a connection so long after it came; 0: never
	Idle       time.Duration // close a connection on which nothing came for so long; 0: never
	CutAfter   int           // close each connection that is open now after so many bytes, in mid-line; 0: never
	Reset      bool          // close by a reset
	DropTail   bool          // what stands behind the last line when a connection ends is none
	HalfClose  bool          // say at once that nothing will be sent, and read on
	EndAtEmpty bool          // of UDP: end at an empty datagram, as `nc -u -l`
}

// immediately is a HangUp as soon as the connection has come.
const immediately = time.Nanosecond

// A receiverSpec says where a receiver listens.
type receiverSpec struct {
	Network string      // tcp, udp, unix, unixgram; "" is tcp
	Addr    string      // host:port or path; "" is a free port of 127.0.0.1
	Buffer  int         // SO_RCVBUF, in bytes; 0: as the kernel likes
	TLS     *tls.Config `json:"-"` // nil: none
	host    host        // where it listens; nil: here
}

// A host is a machine, or what passes for one.
type host interface {
	inside(do func() error) error // does something there
}

// smallBuffer makes the kernel take no more than some KiB unread.
const smallBuffer = 8 << 10

// A lineTaker is given what a receiver has processed: whole lines, of each
// connection alone. It reads lines.
type lineTaker interface{ take(conn int, lines []byte) }

// A server is the part of a receiver that is the same in this process and in one
// of its own. It processes what real ones do: whole lines, of each connection
// alone; and as some do, what stands behind the last of them when a connection
// ends well.
type server struct {
	spec  receiverSpec
	lines lineTaker

	mu       sync.Mutex
	manner   manner
	changed  chan struct{} // closed with the next manner
	listener io.Closer     // nil while it refuses
	conns    map[*served]bool
	came     int       // connections
	due      time.Time // when the next byte may be read, while PerSecond bounds it

	accepting sync.WaitGroup
	work      sync.WaitGroup
}

// A served is one connection. Its goroutine owns it, but for what mu guards.
type served struct {
	net.Conn
	number int       // from 0, in the order in which they came
	came   time.Time // when it did
	tcp    *net.TCPConn
	cut    int // bytes after which it is closed; 0: never. server.mu guards it
}

func newServer(spec receiverSpec, lines lineTaker) *server {
	return &server{spec: spec, lines: lines, changed: make(chan struct{}), conns: map[*served]bool{}}
}

// behave changes the manner from now on.
func (s *server) behave(m manner) (err error) {
	s.mu.Lock()
	s.manner = m
	close(s.changed)
	s.changed = make(chan struct{})
	for c := range s.conns {
		c.cut = m.CutAfter
		if m.Refuse {
			c.end(m.Reset)
		}
	}
	refused := s.listener
	switch {
	case m.Refuse:
		s.listener = nil
	case s.listener == nil:
		err = s.listen()
	}
	s.mu.Unlock()
	if m.Refuse && refused != nil {
		refused.Close()
		s.accepting.Wait() // until then the port is in use
	}
	return err
}

// listen begins to listen, also again. s.mu is held. A port that was given up may
// be in use for a moment longer: a process that is just being started has all
// that is open here until it is another program.
func (s *server) listen() (err error) {
	listen := s.listenHere
	if s.spec.host != nil {
		listen = func() error { return s.spec.host.inside(s.listenHere) }
	}
	for range 500 {
		if err = listen(); !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		<-time.After(10 * time.Millisecond)
	}
	return err
}

func (s *server) listenHere() error {
	config := net.ListenConfig{Control: s.setBuffer}
	switch network := cmp.Or(s.spec.Network, "tcp"); network {
	case "udp", "unixgram":
		packets, err := config.ListenPacket(context.Background(), network, s.spec.Addr)
		if err != nil {
			return err
		}
		s.listener = packets
		s.accepting.Go(func() { s.receive(packets) })
	default:
		ln, err := config.Listen(context.Background(), network, s.spec.Addr)
		if err != nil {
			return err
		}
		s.listener = ln
		s.accepting.Go(func() { s.accept(ln) })
	}
	return nil
}

func (s *server) setBuffer(_, _ string, conn syscall.RawConn) (err error) {
	if s.spec.Buffer == 0 {
		return nil
	}
	ctlErr := conn.Control(func(fd uintptr) {
		if err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, s.spec.Buffer); err == nil {
			_, err = sockets.Grow(int(fd), s.spec.Buffer)
		}
	})
	return errors.Join(err, ctlErr)
}

// close ends all, and returns when it has ended.
func (s *server) close() {
	s.behave(manner{Refuse: true})
	s.work.Wait()
}

func (s *server) now() (manner, <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.manner, s.changed
}

func (s *server) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		c := &served{Conn: conn, came: time.Now()}
		c.tcp, _ = conn.(*net.TCPConn)
		s.mu.Lock()
		m := s.manner
		c.number = s.came
		s.came++
		s.conns[c] = true
		s.mu.Unlock()
		if m.Refuse {
			conn.Close()
		}
		if m.HangUp > 0 {
			time.AfterFunc(m.HangUp, func() { c.end(m.Reset) })
		}
		s.work.Go(func() { s.serve(c) })
	}
}

// end closes a connection.
func (c *served) end(reset bool) {
	if c.tcp != nil && reset {
		c.tcp.SetLinger(0)
	}
	c.Conn.Close()
}

// serve processes the whole lines of a connection.
func (s *server) serve(c *served) {
	defer func() {
		c.Close()
		s.mu.Lock()
		delete(s.conns, c)
		s.mu.Unlock()
	}()
	if m, _ := s.now(); m.HalfClose && c.tcp != nil {
		c.tcp.CloseWrite()
	}
	var in net.Conn = &rawReader{served: c, server: s}
	if s.spec.TLS != nil {
		in = tls.Server(in, s.spec.TLS)
	}
	block := make([]byte, 64<<10)
	tail := 0
	for {
		s.await()
		n, err := in.Read(block[tail:])
		data := block[:tail+n]
		tail = copy(block, data[s.process(c, data):])
		if m, _ := s.now(); errors.Is(err, io.EOF) && tail > 0 && !m.DropTail {
			s.process(c, append(block[:tail:tail], '\n'))
		}
		if err != nil {
			return
		}
		s.slow(n)
	}
}

// A rawReader reads the bytes of a connection, up to where it is to be cut.
type rawReader struct {
	*served
	server *server
}

// Read implements io.Reader.
func (r *rawReader) Read(p []byte) (int, error) {
	m, _ := r.server.now()
	if m.Idle > 0 {
		r.SetReadDeadline(time.Now().Add(m.Idle))
	}
	n, err := r.Conn.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		r.end(m.Reset)
	}
	if at := r.server.cutAt(r.served, p[:n]); at >= 0 {
		r.end(m.Reset)
		return at, nil // and from now on an error
	}
	return n, err
}

// process hands on the whole lines of data and returns their length.
func (s *server) process(c *served, data []byte) int {
	whole := bytes.LastIndexByte(data, '\n') + 1
	if m, _ := s.now(); whole > 0 && !m.Lose {
		s.lines.take(c.number, data[:whole])
	}
	return whole
}

// await returns when a connection may be read.
func (s *server) await() {
	for {
		m, changed := s.now()
		if !m.Stall {
			return
		}
		<-changed
	}
}

// cutAt returns where in data, which has just been read, a connection is to be
// cut: not at the end of a line. -1: nowhere.
func (s *server) cutAt(c *served, data []byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.cut == 0 || c.cut > len(data) {
		c.cut = max(c.cut-len(data), min(c.cut, 1))
		return -1
	}
	at := c.cut
	if data[at-1] == '\n' {
		at--
	}
	return at
}

// slow waits until the bytes that were read have had their time.
func (s *server) slow(n int) {
	s.mu.Lock()
	now := time.Now()
	if s.due.Before(now) || s.manner.PerSecond == 0 {
		s.due = now
	}
	if s.manner.PerSecond > 0 {
		s.due = s.due.Add(time.Duration(n) * time.Second / time.Duration(s.manner.PerSecond))
	}
	wait, changed := s.due.Sub(now), s.changed
	s.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-changed:
		}
	}
}

// receive processes datagrams; the last line of one may lack its end.
func (s *server) receive(packets net.PacketConn) {
	block := make([]byte, 64<<10)
	for {
		s.await()
		n, _, err := packets.ReadFrom(block[:len(block)-1])
		if err != nil {
			return
		}
		m, _ := s.now()
		if n == 0 && m.EndAtEmpty {
			packets.Close()
			return
		}
		if n > 0 && !m.Lose {
			s.lines.take(0, append(bytes.TrimSuffix(block[:n], []byte("\n")), '\n'))
		}
	}
}

// A receiver is an upstream in this process that keeps every line it receives,
// and by which connection. It ends with the test.
type receiver struct {
	URL     string // as an upstream is configured
	Addr    string // host:port or path
	*output        // the lines of all connections, as they were read
	server  *server

	t     testing.TB
	lines *tallier // that counts too; nil: none

	mu     sync.Mutex
	byConn [][]byte // lines, by connection
}

// startReceiver starts a receiver of a manner.
func startReceiver(t testing.TB, spec receiverSpec, m manner) *receiver {
	t.Helper()
	r := &receiver{output: newOutput(), t: t}
	r.server = startServer(t, spec, m, r)
	r.Addr = r.server.spec.Addr
	r.URL = pick(spec.TLS != nil, "tls", cmp.Or(spec.Network, "tcp")) + "://" + r.Addr
	return r
}

// startServer starts a server in this process. It ends with the test.
func startServer(t testing.TB, spec receiverSpec, m manner, lines lineTaker) *server {
	t.Helper()
	if spec.Addr == "" {
		spec.Addr = fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	}
	s := newServer(spec, lines)
	t.Cleanup(s.close)
	if err := s.behave(m); err != nil {
		t.Fatal(err)
	}
	return s
}

// startSink starts a receiver that reads all, by TCP on a free port.
func startSink(t testing.TB) *receiver {
	t.Helper()
	return startReceiver(t, receiverSpec{}, manner{})
}

// Behave changes the manner from now on.
func (r *receiver) Behave(m manner) {
	r.t.Helper()
	if err := r.server.behave(m); err != nil {
		r.t.Fatal(err)
	}
}

// take implements lineTaker.
func (r *receiver) take(conn int, lines []byte) {
	r.mu.Lock()
	for len(r.byConn) <= conn {
		r.byConn = append(r.byConn, nil)
	}
	r.byConn[conn] = append(r.byConn[conn], lines...)
	r.mu.Unlock()
	if r.lines != nil {
		r.lines.take(conn, lines)
	}
	r.Write(lines)
}

// Connections returns how many connections have come so far.
func (r *receiver) Connections() int {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	return r.server.came
}

// sessions returns how many connections have brought lines.
func (r *receiver) sessions() (n int) {
	for _, lines := range r.ByConnection() {
		if len(lines) > 0 {
			n++
		}
	}
	return n
}

// ByConnection returns the lines that each connection has brought so far.
func (r *receiver) ByConnection() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([][]string, len(r.byConn))
	for i, text := range r.byConn {
		out[i] = strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	}
	return out
}
