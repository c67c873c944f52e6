package testbed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"testing"
	"time"
)

// A faultReceiverSpec says where a receiver listens.
type faultReceiverSpec struct{ Carbon, StatsD receiverSpec }

// done is what a receiver prints when it has taken a manner. Lines that begin
// so are no lines of a relay.
const done = "#done\n"

// A faultReceiver is a Graphite and a StatsD, by TCP, that misbehave when they
// are told to, in a process of their own. What it has processed counts even when
// it is killed.
type faultReceiver struct {
	t      testing.TB
	spec   faultReceiverSpec
	lines  *tallier
	within func(start func() error) error // where it is started; nil: here

	*process
	orders *json.Encoder
	taken  chan struct{} // a manner was
}

// start starts the process, also again after kill, and waits until it listens.
func (r *faultReceiver) start() {
	r.t.Helper()
	r.taken = make(chan struct{}, 1)
	var stdin io.WriteCloser
	r.process, stdin = startPart(r.t, "receiver", r.spec, &receipts{lines: r.lines, taken: r.taken}, r.within)
	r.orders = json.NewEncoder(stdin)
	r.awaitTaken()
}

// tell says how to behave from now on, and returns when that is done.
func (r *faultReceiver) tell(m manner) {
	r.t.Helper()
	if err := r.orders.Encode(m); err != nil {
		r.t.Fatalf("tell the receiver: %v", err)
	}
	r.awaitTaken()
}

func (r *faultReceiver) awaitTaken() {
	r.t.Helper()
	select {
	case <-r.taken:
	case <-r.ended:
		r.t.Fatalf("the receiver has ended:\n%s", r.Stderr.tailText())
	case <-time.After(patience):
		r.t.Fatalf("the receiver has not answered within %v", patience)
	}
}

// kill ends the process at once: what its kernel has taken and it has not read
// is lost.
func (r *faultReceiver) kill() {
	if r.process != nil {
		r.Kill()
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
		r.lines.take(0, rest[:at])
		rest = rest[at+len(done):]
		r.taken <- struct{}{}
	}
	r.lines.take(0, rest)
	r.tail = append(r.tail[:0], data[whole:]...)
	return len(p), nil
}

// playReceiver is the process of a receiver.
func playReceiver(spec []byte) error {
	var listen faultReceiverSpec
	if err := json.Unmarshal(spec, &listen); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	out := &receiptPrinter{}
	servers := []*server{newServer(listen.Carbon, out), newServer(listen.StatsD, out)}
	orders := json.NewDecoder(os.Stdin)
	var m manner
	for {
		for _, s := range servers {
			if err := s.behave(m); err != nil {
				return err
			}
		}
		out.print([]byte(done))
		m = manner{}
		if err := orders.Decode(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// A receiptPrinter prints what the servers of a receiver have processed.
type receiptPrinter struct{ mu sync.Mutex }

// take implements lineTaker.
func (p *receiptPrinter) take(_ int, lines []byte) { p.print(lines) }

func (p *receiptPrinter) print(lines []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := os.Stdout.Write(lines); err != nil {
		os.Exit(1) // nobody counts
	}
}
