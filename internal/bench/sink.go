//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// A sinkPorts is what a sink says first: where it receives lines, on 127.0.0.1.
// On Health it answers like a statsd that is asked whether it lives.
type sinkPorts struct{ StatsD, Carbon, Health int }

// A sinkRequest asks a sink for its report, and before that, with Expect, to
// start a new ledger.
type sinkRequest struct {
	Expect *Traffic
	Run    int
	Name   string // under which the lines are to arrive
}

// A sinkReport is what a sink has found since its ledger was started.
type sinkReport struct {
	Tally
	Dropped  uint64        // datagrams that the kernel dropped at the sink itself
	P50, P99 time.Duration // from the sender's write to the sink's read
}

// A remoteSink is a sink process, as its parent sees it.
type remoteSink struct {
	*child
	ports sinkPorts
}

func startSink(ctx context.Context) (*remoteSink, error) {
	process, err := startPart(ctx, "sink", struct{}{})
	if err != nil {
		return nil, err
	}
	s := &remoteSink{child: process}
	if err := s.hear(&s.ports); err != nil {
		s.stop()
		return nil, fmt.Errorf("start the sink: %w", err)
	}
	return s, nil
}

// port returns where the sink takes the lines of a protocol.
func (s *remoteSink) port(protocol string) int {
	if protocol == carbon {
		return s.ports.Carbon
	}
	return s.ports.StatsD
}

// expect starts a new ledger, for a run of some traffic.
func (s *remoteSink) expect(t Traffic, run int, name string) error {
	_, err := s.ask(sinkRequest{Expect: &t, Run: run, Name: name})
	return err
}

func (s *remoteSink) report() (sinkReport, error) { return s.ask(sinkRequest{}) }

func (s *remoteSink) ask(request sinkRequest) (report sinkReport, err error) {
	if err = s.tell(request); err == nil {
		err = s.hear(&report)
	}
	if err != nil {
		return report, fmt.Errorf("ask the sink: %w", err)
	}
	return report, nil
}

// A sink is the upstream of all forwarders. It checks what it receives.
type sink struct {
	udp     int
	carbon  net.Listener
	health  net.Listener
	mu      sync.Mutex // guards what follows
	ledger  *ledger
	dropped uint64 // by the kernel, before the ledger
}

// serveSink is the sink process.
func serveSink(parent *channel) error {
	s, err := newSink()
	if err != nil {
		return err
	}
	port, err := localPort(s.udp)
	if err != nil {
		return err
	}
	go s.receiveDatagrams()
	go s.accept(s.carbon, s.receiveStream)
	go s.accept(s.health, answerHealth)
	ports := sinkPorts{StatsD: port, Carbon: tcpPort(s.carbon), Health: tcpPort(s.health)}
	if err := parent.tell(ports); err != nil {
		return err
	}
	return s.answer(parent)
}

func newSink() (*sink, error) {
	s := &sink{ledger: newLedger(Traffic{Protocol: statsd, Senders: 1}, 0, nameOut)}
	var err, healthErr error
	s.carbon, err = net.Listen("tcp", "127.0.0.1:0")
	s.health, healthErr = net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err, healthErr); err != nil {
		return nil, err
	}
	if s.udp, err = udpSocket(); err != nil {
		return nil, err
	}
	_, err = sockets.Grow(s.udp, receiveBuffer)
	return s, err
}

func tcpPort(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }

// answer answers the parent's requests until it hangs up.
func (s *sink) answer(parent *channel) error {
	for {
		var request sinkRequest
		if err := parent.hear(&request); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		report, err := s.report(request)
		if err != nil {
			return err
		}
		if err := parent.tell(report); err != nil {
			return err
		}
	}
}

func (s *sink) report(request sinkRequest) (sinkReport, error) {
	dropped, err := sockets.Drops(s.udp)
	if err != nil {
		return sinkReport{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if request.Expect != nil {
		s.ledger, s.dropped = newLedger(*request.Expect, request.Run, request.Name), dropped
	}
	return sinkReport{
		Tally:   s.ledger.tally,
		Dropped: dropped - s.dropped,
		P50:     s.ledger.latency(0.50),
		P99:     s.ledger.latency(0.99),
	}, nil
}

// take checks the lines of data, which has arrived just now, and returns what
// is behind the last.
func (s *sink) take(data []byte) (rest []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ledger.take(data, monotonic())
}

// receiveDatagrams receives StatsD lines. It blocks in the kernel, on a thread
// of its own: the runtime's poller would add its own latency.
func (s *sink) receiveDatagrams() {
	runtime.LockOSThread()
	in := newPackets(64, 64<<10)
	for {
		n, err := in.recv(s.udp)
		if err != nil {
			fatal("receive StatsD lines", err)
		}
		for i := range n {
			if rest := s.take(in.received(i)); len(rest) > 0 {
				s.take(append(rest, '\n')) // the last line of a datagram may lack its end
			}
		}
	}
}

// receiveStream receives Carbon lines from one connection, likewise.
func (s *sink) receiveStream(conn *net.TCPConn) error {
	runtime.LockOSThread()
	file, err := conn.File() // blocking
	if err != nil {
		return err
	}
	defer file.Close()
	return readBlocks(int(file.Fd()), s.take)
}

// readBlocks hands what it reads from a blocking socket to take, together with
// what take left over before, until the end of the connection.
func readBlocks(fd int, take func(data []byte) (rest []byte)) error {
	block := make([]byte, 256<<10)
	tail := 0
	for {
		n, err := unix.Read(fd, block[tail:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return err
		case n == 0:
			return nil
		default:
			tail = copy(block, take(block[:tail+n]))
		}
	}
}

// accept serves each connection in a goroutine of its own. A forwarder that is
// ended resets its connections: no matter.
func (s *sink) accept(ln net.Listener, serve func(*net.TCPConn) error) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			fatal("accept a connection", err)
		}
		go func() {
			defer conn.Close()
			if err := serve(conn.(*net.TCPConn)); err != nil && !errors.Is(err, unix.ECONNRESET) {
				fatal("serve a connection", err)
			}
		}()
	}
}

// answerHealth says that the server is up, however it is asked.
func answerHealth(conn *net.TCPConn) error {
	var question [64]byte
	if _, err := conn.Read(question[:]); err != nil {
		return nil // nobody is curious any more
	}
	_, err := io.WriteString(conn, "health: up\n")
	return err
}

// fatal ends a child process whose thread cannot go on.
func fatal(what string, err error) {
	os.Stderr.WriteString("bench: " + what + ": " + err.Error() + "\n")
	os.Exit(1)
}
