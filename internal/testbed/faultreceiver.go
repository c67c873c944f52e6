package testbed

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"
)

// receiverVariable in the environment makes Main play a receiver: a process of
// its own, so that killing it is real. It holds a faultReceiverSpec in JSON.
const receiverVariable = "PREFIXPROXY_TESTBED_RECEIVER"

// A faultReceiverSpec says where a receiver listens.
type faultReceiverSpec struct{ Carbon, StatsD receiverSpec }

// done is what a receiver prints when it has taken a manner. Lines that begin
// so are no lines of a relay.
const done = "#done\n"

// A faultReceiver is a Graphite and a StatsD, by TCP, that misbehave when they
// are told to, in a process of their own. What it has processed counts even when
// it is killed.
type faultReceiver struct {
	t     testing.TB
	spec  faultReceiverSpec
	lines *tallier
	netns string // network namespace that it runs in; "": ours

	cmd    *exec.Cmd
	orders *json.Encoder
	taken  chan struct{} // a manner was
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
		r.t.Fatal("the receiver has ended")
	case <-time.After(patience):
		r.t.Fatalf("the receiver has not answered within %v", patience)
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

// playReceiver is the process of a receiver. It ends with its stdin.
func playReceiver(spec string) error {
	var listen faultReceiverSpec
	if err := json.Unmarshal([]byte(spec), &listen); err != nil {
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
