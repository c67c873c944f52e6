package testbed

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A daemon with one listener of each protocol, whose Carbon lines go to CARBON.
const smallConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: [udp://127.0.0.1:0]
  carbon: [tcp://127.0.0.1:0]
forward:
  statsd: {to: ["stdout:"]}
  carbon: {to: ["tcp://${CARBON}"]}
`

const (
	statsdListener = "udp://127.0.0.1:"
	carbonListener = "tcp://127.0.0.1:"
)

// Two daemons on one etcd get the two highest mountains. The name of the first
// is free as soon as it stops: the next daemon, which takes the first that is free,
// is Denali.
func TestNames(t *testing.T) {
	etcd := "ETCD=" + embeddedEtcd(t)
	carbon := "CARBON=" + startSink(t).Addr
	first := startDaemon(t, smallConfig, etcd, carbon)
	first.AwaitName(t, "Denali")
	second := startDaemon(t, smallConfig, etcd, carbon)
	second.AwaitName(t, "MtLogan")
	if code := first.Stop(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	third := startDaemon(t, smallConfig, etcd, carbon)
	third.AwaitName(t, "Denali")
	send(t, "udp", second.Address(t, "statsd", statsdListener), "host.requests:1|c")
	second.Stdout.Await(t, "MtLogan.requests:1|c")
}

// What a daemon has received it forwards before it ends: lines that an upstream
// has not taken when SIGTERM comes arrive all the same, once each, in order.
func TestDrain(t *testing.T) {
	t.Parallel()
	sink := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	d := startDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+sink.Addr)
	d.AwaitReady(t)
	const n = 10_000
	var lines strings.Builder
	for i := range n {
		fmt.Fprintf(&lines, "host.drained %d 1700000000\n", i)
	}
	send(t, "tcp", d.Address(t, "carbon", carbonListener), lines.String())
	d.awaitBooks(t, "carbon", func(b proxy.Books) bool { return b.Received == n })
	d.Signal(syscall.SIGTERM)
	d.Stderr.Await(t, "msg=draining limit=5s")
	sink.Behave(manner{})
	if code := d.ExitCode(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	sink.Await(t, "drained 9999 ")
	for i, line := range sink.Lines() {
		if want := fmt.Sprintf("Denali.drained %d 1700000000", i); line != want {
			t.Fatalf("line %d is %q, want %q", i, line, want)
		}
	}
}

// Without etcd the listeners are up, and what comes is held until a name does.
func TestEtcdComesLater(t *testing.T) {
	t.Parallel()
	etcd := newEtcd(t)
	sink := startSink(t)
	d := startDaemon(t, smallConfig, "ETCD="+etcd.Endpoint, "CARBON="+sink.Addr)
	if status := d.AwaitUp(t); status.State != "claiming" || status.Name != nil {
		t.Errorf("state %q, name %v; want claiming and none", status.State, status.Name)
	}
	if code, body, _ := d.Get("/readyz"); code != 503 {
		t.Errorf("/readyz is %d %q, want 503", code, body)
	}
	if code, body, _ := d.Get("/healthz"); code != 200 {
		t.Errorf("/healthz is %d %q, want 200", code, body)
	}
	send(t, "tcp", d.Address(t, "carbon", carbonListener), "host.held 1 1700000000\nother.free 2 1700000000\n")
	sink.Await(t, "other.free 2 1700000000") // needs no name
	etcd.Start(t)
	sink.Await(t, "Denali.held 1 1700000000")
	if got := d.AwaitReady(t); *got.Name != "Denali" {
		t.Errorf("name %q, want Denali", *got.Name)
	}
	checkBooks(t, d.AwaitUp(t))
}

// Without Graphite the lines are held until it comes: none is lost.
func TestGraphiteComesLater(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	d := startDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+carbon.Addr)
	d.AwaitName(t, "Denali")
	now := time.Now().Unix()
	var lines strings.Builder
	const metrics = 500
	for i := range metrics {
		fmt.Fprintf(&lines, "host.later.%d %d %d\n", i, i, now)
	}
	send(t, "tcp", d.Address(t, "carbon", carbonListener), lines.String())
	d.awaitBooks(t, "carbon", func(b proxy.Books) bool { return b.Queued == metrics })
	if code, body, _ := d.Get("/readyz"); code != 503 || !strings.Contains(body, "carbon") {
		t.Errorf("/readyz is %d %q, want 503 for Carbon", code, body)
	}
	carbon.Start(t)
	for i := range metrics {
		carbon.AwaitValue(t, now, float64(i), "Denali", "later", fmt.Sprint(i))
	}
	status := d.AwaitReady(t)
	checkBooks(t, status)
	if got := status.Lines["carbon"].Forwarded; got != metrics {
		t.Errorf("%d lines forwarded, want %d", got, metrics)
	}
}

// A restart of Graphite costs no line that was sent after it had gone.
func TestGraphiteRestarts(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	d := startDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+carbon.Addr)
	d.AwaitReady(t)
	address := d.Address(t, "carbon", carbonListener)
	now := time.Now().Unix()
	send(t, "tcp", address, fmt.Sprintf("host.before 1 %d\n", now))
	carbon.AwaitValue(t, now, 1, "Denali", "before")
	carbon.Stop(t)
	d.Stderr.Await(t, "upstream down")
	send(t, "tcp", address, fmt.Sprintf("host.after 2 %d\n", now))
	carbon.Start(t)
	carbon.AwaitValue(t, now, 2, "Denali", "after")
}

// A second SIGTERM ends a drain that takes its time.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	down := fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	d := startDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+down)
	d.AwaitName(t, "Denali")
	send(t, "tcp", d.Address(t, "carbon", carbonListener), "host.waits 1 1700000000\n")
	d.awaitBooks(t, "carbon", func(b proxy.Books) bool { return b.Queued == 1 })
	// Signals in quick succession count as one, so this sends more than two.
	eventually(t, "the end", func() error {
		if d.Signal(syscall.SIGTERM); !d.hasEnded() {
			return errors.New("the daemon goes on")
		}
		return nil
	})
	if code := d.ExitCode(t); code != 1 {
		t.Errorf("exit code %d after a second SIGTERM, want 1", code)
	}
}

// What keeps a daemon from starting ends it with the right code, and an error
// that names the obstacle.
func TestCannotStart(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	etcd := "ETCD=" + embeddedEtcd(t)
	sink := startSink(t)
	running := startDaemon(t, smallConfig, etcd, "CARBON="+sink.Addr)
	running.AwaitName(t, "Denali")

	for _, tt := range []struct {
		what   string
		dir    string
		config string
		code   int
		says   string
	}{
		{"a port in use", t.TempDir(), strings.Replace(smallConfig, "carbon: [tcp://127.0.0.1:0]", "carbon: [tcp://127.0.0.1:"+port+"]", 1), 1, port},
		{"a state directory in use", running.Dir, smallConfig, 1, running.Dir},
		{"an invalid configuration", t.TempDir(), strings.Replace(smallConfig, "listen:", "lissen:", 1), 78, "lissen"},
		{"no etcd endpoint", t.TempDir(), strings.Replace(smallConfig, `endpoints: ["${ETCD}"]`, "endpoints: []", 1), 78, "etcd.endpoints"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			d := startDaemonIn(t, tt.dir, tt.config, etcd, "CARBON="+sink.Addr)
			if code := d.ExitCode(t); code != tt.code {
				t.Errorf("exit code %d, want %d", code, tt.code)
			}
			checkError(t, d.process, tt.says)
		})
	}
	running.AwaitName(t, "Denali") // and is none the worse
}

// checkError checks that a process has said what went wrong, for a person.
func checkError(t testing.TB, p *process, says string) {
	t.Helper()
	text := p.Stderr.Text()
	if !strings.Contains(p.Stderr.Await(t, "prefixproxy: error: "), says) {
		t.Errorf("got the error\n%s\nwant it to name %q", text, says)
	}
	if strings.Contains(text, "goroutine ") {
		t.Errorf("a stack trace:\n%s", text)
	}
}

// Who reads the log may go first (2>&1 | tee, and ^C): the end is as ever.
func TestLogReaderGoes(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := commandIn(t, dir, "run", smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+startSink(t).Addr)
	cmd.Args = append([]string{"sh", "-c", `exec "$@" 2>&3 3>&-`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.ExtraFiles = "/bin/sh", []*os.File{w}
	d := newDaemon(dir, start(t, cmd))
	w.Close()
	d.AwaitReady(t)
	r.Close()
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}
