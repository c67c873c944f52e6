package testbed

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"testing"
	"time"
)

// receiverVariable in the environment makes Main play a receiver: a process of
// its own, so that killing it is real. It holds a receiverSpec in JSON.
const receiverVariable = "PREFIXPROXY_TESTBED_RECEIVER"

// A receiverSpec says where a receiver listens.
type receiverSpec struct {
	Carbon, StatsD string // host:port
	ReceiveBuffer  int    // SO_RCVBUF of its connections, in bytes; 0: as the kernel likes
}

// An order changes what a receiver does from now on.
type order struct {
	Refuse     bool // close all connections, and refuse new ones
	Stall      bool // accept connections and read nothing
	PerSecond  int  // bytes that are read in a second, of all connections together; 0: all
	ResetAfter int  // bytes after which each connection that is open now is reset, in mid-line; 0: never
}

// done is what a receiver prints when it has taken an order. Lines that begin
// so are no lines of a relay.
const done = "#done\n"

// A faultReceiver is a Graphite and a StatsD, by TCP, that misbehave when they
// are told to. It processes what real ones do: whole lines, of each connection
// alone; and as some do, what stands behind the last of them when a connection
// ends well. What it has processed counts even when it is killed.
type faultReceiver struct {
	t     testing.TB
	spec  receiverSpec
	lines *tallier
	netns string // network namespace that it runs in; "": ours

	cmd    *exec.Cmd
	orders *json.Encoder
	taken  chan struct{} // an order was
	ended  chan struct{}
}

// start starts the process, also again after kill, and waits until it listens.
func (r *faultReceiver) start() {
	r.t.Helper()
	spec, err := json.Marshal(r.spec)
	if err != nil {
		r.t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	r.cmd = exec.Command(self)
	if r.netns != "" {
		r.cmd = exec.Command("ip", "netns", "exec", r.netns, self)
	}
	r.cmd.Env = append(os.Environ(), receiverVariable+"="+string(spec))
	r.cmd.Stderr = os.Stderr
	stdin, err := r.cmd.StdinPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	r.orders, r.taken, r.ended = json.NewEncoder(stdin), make(chan struct{}, 1), make(chan struct{})
	r.cmd.Stdout = &receipts{lines: r.lines, taken: r.taken}
	if err := r.cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func(cmd *exec.Cmd, ended chan struct{}) {
		cmd.Wait() // until all that it has processed is counted
		close(ended)
	}(r.cmd, r.ended)
	r.awaitTaken()
}

// tell gives an order, and returns when it was taken.
func (r *faultReceiver) tell(o order) {
	r.t.Helper()
	if err := r.orders.Encode(o); err != nil {
		r.t.Fatalf("tell the receiver: %v", err)
	}
	r.awaitTaken()
}

func (r *faultReceiver) awaitTaken() {
	r.t.Helper()
	select {
	case <-r.taken:
	case <-r.ended:
		r.t.Fatal("the receiver has ended")
	case <-time.After(Patience):
		r.t.Fatalf("the receiver has not answered within %v", Patience)
	}
}

// kill ends the process at once: what its kernel has taken and it has not read
// is lost.
func (r *faultReceiver) kill() {
	if r.cmd != nil {
		r.cmd.Process.Kill()
		<-r.ended
	}
}

// receipts takes what a receiver prints.
type receipts struct {
	lines *tallier
	taken chan<- struct{}
	tail  []byte // of a line that has not ended
}

// Write implements io.Writer. It reads p.
func (r *receipts) Write(p []byte) (int, error) {
	data := append(r.tail, p...)
	whole := bytes.LastIndexByte(data, '\n') + 1
	rest := data[:whole]
	for {
		at := bytes.Index(rest, []byte(done))
		if at < 0 {
			break
		}
		r.lines.take(rest[:at])
		rest = rest[at+len(done):]
		r.taken <- struct{}{}
	}
	r.lines.take(rest)
	r.tail = append(r.tail[:0], data[whole:]...)
	return len(p), nil
}

// A receiverProcess is what runs in the process of a receiver.
type receiverProcess struct {
	spec receiverSpec
	out  sync.Mutex // of stdout

	mu        sync.Mutex
	order     order
	changed   chan struct{} // closed with the next order
	listeners []net.Listener
	conns     map[net.Conn]int // bytes after which it is reset; 0: never
	due       time.Time        // when the next byte may be read, while PerSecond bounds it
}

// playReceiver is the process of a receiver. It ends with its stdin.
func playReceiver(spec string) error {
	p := &receiverProcess{changed: make(chan struct{}), conns: map[net.Conn]int{}}
	if err := json.Unmarshal([]byte(spec), &p.spec); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	orders := json.NewDecoder(os.Stdin)
	var o order
	for {
		if err := p.obey(o); err != nil {
			return err
		}
		p.print([]byte(done))
		o = order{}
		if err := orders.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// obey takes an order.
func (p *receiverProcess) obey(o order) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.order = o
	close(p.changed)
	p.changed = make(chan struct{})
	for conn := range p.conns {
		p.conns[conn] = o.ResetAfter
		if o.Refuse {
			conn.Close()
		}
	}
	if !o.Refuse {
		return p.listen()
	}
	for _, ln := range p.listeners {
		ln.Close()
	}
	p.listeners = nil
	return nil
}

// listen listens unless it does. p.mu is held.
func (p *receiverProcess) listen() error {
	if p.listeners != nil {
		return nil
	}
	config := net.ListenConfig{Control: p.setBuffer}
	for _, addr := range []string{p.spec.Carbon, p.spec.StatsD} {
		ln, err := config.Listen(context.Background(), "tcp", addr)
		if err != nil {
			return err
		}
		p.listeners = append(p.listeners, ln)
		go p.accept(ln)
	}
	return nil
}

func (p *receiverProcess) setBuffer(_, _ string, conn syscall.RawConn) (err error) {
	if p.spec.ReceiveBuffer == 0 {
		return nil
	}
	ctlErr := conn.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, p.spec.ReceiveBuffer)
	})
	return errors.Join(err, ctlErr)
}

func (p *receiverProcess) accept(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		p.conns[conn] = 0
		refuse := p.order.Refuse
		p.mu.Unlock()
		if refuse {
			conn.Close()
		}
		go p.serve(conn.(*net.TCPConn))
	}
}

// serve processes the whole lines of a connection.
func (p *receiverProcess) serve(conn *net.TCPConn) {
	defer func() {
		conn.Close()
		p.mu.Lock()
		delete(p.conns, conn)
		p.mu.Unlock()
	}()
	block := make([]byte, 64<<10)
	tail := 0
	for {
		p.await()
		n, err := conn.Read(block[tail:])
		data := block[:tail+n]
		if cut := p.resetAt(conn, data, tail); cut >= 0 {
			p.process(data[:cut])
			conn.SetLinger(0)
			return
		}
		tail = copy(block, data[p.process(data):])
		if errors.Is(err, io.EOF) && tail > 0 {
			p.print(append(block[:tail:tail], '\n'))
		}
		if err != nil {
			return
		}
		p.slow(n)
	}
}

// process prints the whole lines of data and returns their length.
func (p *receiverProcess) process(data []byte) int {
	whole := bytes.LastIndexByte(data, '\n') + 1
	if whole > 0 {
		p.print(data[:whole])
	}
	return whole
}

func (p *receiverProcess) print(lines []byte) {
	p.out.Lock()
	defer p.out.Unlock()
	if _, err := os.Stdout.Write(lines); err != nil {
		os.Exit(1) // nobody counts
	}
}

// await returns when a connection may be read.
func (p *receiverProcess) await() {
	for {
		p.mu.Lock()
		stall, changed := p.order.Stall, p.changed
		p.mu.Unlock()
		if !stall {
			return
		}
		<-changed
	}
}

// resetAt returns where in data, of which all behind old has just been read, a
// connection is to be reset: not at the end of a line. -1: nowhere.
func (p *receiverProcess) resetAt(conn net.Conn, data []byte, old int) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	left := p.conns[conn]
	if left == 0 || left > len(data)-old {
		p.conns[conn] = max(left-(len(data)-old), min(left, 1))
		return -1
	}
	at := old + left
	if data[at-1] == '\n' {
		at--
	}
	return at
}

// slow waits until the bytes that were read have had their time.
func (p *receiverProcess) slow(n int) {
	p.mu.Lock()
	now := time.Now()
	if p.due.Before(now) || p.order.PerSecond == 0 {
		p.due = now
	}
	if p.order.PerSecond > 0 {
		p.due = p.due.Add(time.Duration(n) * time.Second / time.Duration(p.order.PerSecond))
	}
	wait, changed := p.due.Sub(now), p.changed
	p.mu.Unlock()
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-changed:
		}
	}
}
