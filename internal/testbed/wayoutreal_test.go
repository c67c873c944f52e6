//go:build linux

package testbed

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// The same, with the servers that people run.
var realScenarios = []scenario{
	{"haproxy without a backend", func(t *testing.T) { haproxyWithoutBackend(t, "check inter 200ms") }},
	{"haproxy that looks for a backend", func(t *testing.T) { haproxyWithoutBackend(t, "") }},
	{"haproxy whose backend comes and goes", haproxyWithFlappingBackend},
	{"four haproxys without a backend, and a good one", haproxysAndAnother},
	{"slow: haproxy with a silent backend, and a good one", haproxyIsSilent},
	{"statsd 0.9 is stopped twice", statsdIsStopped},
	{"slow: statsd 0.9 is stopped for long", func(t *testing.T) { statsdIsStoppedLong(t, 35*time.Second, "") }},
	{"slow: statsd 0.9 with max_age is stopped for long", func(t *testing.T) { statsdIsStoppedLong(t, 30*time.Second, ", max_age: 10s") }},
	{"slow: statsd 0.9 is stopped for long, beside another", func(t *testing.T) {
		statsdIsStoppedLong(t, 25*time.Second, "", startReceiver(t, receiverSpec{}, manner{}).URL)
	}},
	{"slow: statsd 0.9 is back, and the proxy stops", statsdIsBackAndWeStop},
	{"statsd 0.9, and kill -9 of the proxy", statsdSurvivesUs},
	{"statsd 0.9 is asked whether it lives", statsdHealth},
	{"slow: carbon-cache with a full cache", carbonCacheIsFull},
	{"stunnel", func(t *testing.T) { realTLS(t, stunnel) }},
	{"carbon-c-relay with tls", func(t *testing.T) { realTLS(t, carbonCRelayTLS) }},
	{"stunnel wants a client's certificate", stunnelWantsCertificate},
}

// behind is how a receiver behaves behind another server: a half line that it
// gets when that ends is no line of ours.
var behind = manner{DropTail: true}

// startHAProxy starts a balancer in front of a server, and returns where it
// listens. options are those of the server: with "check inter 200ms" it knows
// soon that there is none, without it tries for some seconds, and takes lines
// meanwhile. patience is how long each of its four attempts may take.
func startHAProxy(t *testing.T, backend, options, patience string) (addr string) {
	program := lookPath(t, "haproxy", "haproxy")
	addr = fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	config := writeFile(t, fmt.Sprintf(`defaults
  mode tcp
  timeout connect %s
  timeout client 60s
  timeout server 60s
frontend carbon
  bind %s
  default_backend graphite
backend graphite
  server graphite %s %s
`, patience, addr, backend, options), t.TempDir(), "haproxy.cfg")
	p := start(t, exec.Command(program, "-db", "-f", config))
	awaitListening(t, p, addr)
	return addr
}

// haproxyWithoutBackend: it accepts and hangs up, until there is a Graphite.
func haproxyWithoutBackend(t *testing.T, options string) {
	graphite := startReceiver(t, receiverSpec{}, manner{Refuse: true})
	balancer := startHAProxy(t, graphite.Addr, options, "1s")
	w := startWayOut(t, daemonPlan{carbon: to("tcp://" + balancer), replay: "4KiB"})
	w.counts(graphite)
	w.sendFor("carbon", 700, 10*time.Second)
	graphite.Behave(behind)
	w.awaitDelivered("carbon")
	w.saidOnce(balancer)
}

// haproxyWithFlappingBackend: what it had acknowledged, and could give to nobody,
// is sent again.
func haproxyWithFlappingBackend(t *testing.T) {
	graphite := startReceiver(t, receiverSpec{Buffer: smallBuffer}, behind)
	balancer := startHAProxy(t, graphite.Addr, "", "1s")
	w := startWayOut(t, daemonPlan{carbon: to("tcp://" + balancer)})
	w.counts(graphite)
	for range 3 {
		w.sendFor("carbon", 5000, time.Second)
		graphite.Behave(manner{Stall: true, DropTail: true})
		w.sendFor("carbon", 5000, time.Second)
		graphite.Behave(manner{Refuse: true, Reset: true})
		w.sendFor("carbon", 5000, time.Second)
		graphite.Behave(behind)
	}
	w.awaitDelivered("carbon")
}

// haproxysAndAnother: the one that works is used.
func haproxysAndAnother(t *testing.T) {
	var balancers, list []string
	for range 4 {
		addr := startHAProxy(t, fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t)), "", "1s")
		balancers, list = append(balancers, addr), append(list, "tcp://"+addr)
	}
	good := startSink(t)
	w := startWayOut(t, daemonPlan{carbon: to(append(list, good.URL)...)})
	w.counts(good)
	began := time.Now()
	w.sendUntilArrives("carbon", good)
	t.Logf("the good one is used after %v", time.Since(began).Round(100*time.Millisecond))
	w.sendFor("carbon", 400, 6*time.Second)
	w.awaitUp(good.URL)
	w.awaitDelivered("carbon")
	for _, addr := range balancers {
		w.saidOnce(addr)
	}
}

// haproxyIsSilent: the host of its backend is gone, so that it needs 20 s to find that out.
func haproxyIsSilent(t *testing.T) {
	network := newNowhere(t, 0)
	balancer := startHAProxy(t, fmt.Sprintf("%s:%d", network.silent, sidebyside.FreePort(t)), "", "5s")
	good := startSink(t)
	w := startWayOut(t, daemonPlan{carbon: to("tcp://"+balancer, good.URL)})
	w.counts(good)
	w.sendFor("carbon", 5, 30*time.Second)
	w.awaitArrivals("carbon", 150)
	w.awaitDelivered("carbon")
	w.saidOnce(balancer)
}

// startStatsDWay starts a statsd in front of a receiver of its flushes, and a
// daemon in front of it, by TCP.
func startStatsDWay(t *testing.T) (statsd *statsD, flushes *receiver, w *wayOut) {
	flushes = startSink(t)
	statsd = startPlainStatsD(t, flushes.Addr)
	return statsd, flushes, startWayOut(t, daemonPlan{statsd: to("tcp://" + statsd.Addr)})
}

// lives checks that a statsd counts what it is sent.
func (s *statsD) lives(t *testing.T, flushes *receiver, name string) {
	t.Helper()
	eventually(t, "a line that is counted", func() error {
		if s.hasEnded() {
			t.Fatalf("statsd has ended:\n%s", s.Stderr.tailText())
		}
		send(t, "tcp", s.Addr, name+":1|c\n")
		if !strings.Contains(flushes.Text(), name) {
			return errors.New("nothing is flushed")
		}
		return nil
	})
}

// statsdIsStopped: a statsd that pauses is not reset, which would end it. On a connection that has been
// full, our kernel might give it up in the next pause: when it has taken all, another takes its place.
func statsdIsStopped(t *testing.T) {
	statsd, flushes, w := startStatsDWay(t)
	w.sendFor("statsd", 10_000, time.Second)
	for i := range 2 {
		before := w.awaitUp("tcp://" + statsd.Addr)
		statsd.Signal(syscall.SIGSTOP)
		w.sendFor("statsd", 10_000, 2*time.Second)
		for !w.lags("statsd") { // the kernel has given the connection more room
			w.sendFor("statsd", 50_000, time.Second)
		}
		w.sendFor("statsd", 10_000, time.Second)
		statsd.Signal(syscall.SIGCONT)
		statsd.lives(t, flushes, fmt.Sprintf("after.pause.%d", i))
		w.current().eventually(t, "another connection", func() error {
			now, err := w.upstream(before.Address)
			if err == nil && !now.Since.After(before.Since) {
				err = fmt.Errorf("it is %+v", now)
			}
			return err
		})
	}
	w.sendFor("statsd", 10_000, time.Second)
	statsd.lives(t, flushes, "much.later")
}

// statsdIsStoppedLong: neither is one that pauses for long, nor does our kernel give its
// connection up while its lines may leave.
func statsdIsStoppedLong(t *testing.T, d time.Duration, settings string, others ...string) {
	flushes := startSink(t)
	statsd := startPlainStatsD(t, flushes.Addr)
	w := startWayOut(t, daemonPlan{statsd: to(append([]string{"tcp://" + statsd.Addr}, others...)...) + settings})
	w.sendFor("statsd", 2000, 6*time.Second)
	statsd.Signal(syscall.SIGSTOP)
	w.sendFor("statsd", 2000, d)
	statsd.Signal(syscall.SIGCONT)
	w.sendFor("statsd", 2000, 3*time.Second)
	statsd.lives(t, flushes, "after.the.pause")
}

// statsdIsBackAndWeStop: a connection that only looks whether it is back does not end it.
func statsdIsBackAndWeStop(t *testing.T) {
	flushes := startSink(t)
	statsd := startPlainStatsD(t, flushes.Addr)
	statsd.Kill()
	w := startWayOut(t, daemonPlan{statsd: to("tcp://"+statsd.Addr, startReceiver(t, receiverSpec{}, manner{}).URL)})
	for i := range 3 {
		w.sendFor("statsd", 100, 3*time.Second)
		statsd.Restart(t)
		w.sendFor("statsd", 100, time.Second+time.Duration(i)*500*time.Millisecond)
		w.stop()
		statsd.lives(t, flushes, fmt.Sprintf("after.stop.%d", i))
		statsd.Kill()
		w.start()
		awaitListening(t, w.current().process, w.at.statsd)
	}
}

// statsdSurvivesUs: it lives on when we are killed under load.
func statsdSurvivesUs(t *testing.T) {
	statsd, flushes, w := startStatsDWay(t)
	for i := range 3 {
		before := w.lines.written()
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			w.sendFor("statsd", 10_000, 3*time.Second)
		}()
		if !w.within(patience, func() bool { return w.lines.written() > before+5000 }) {
			t.Fatal("nothing is sent")
		}
		if i == 1 { // also while it has more to read than it can
			statsd.Signal(syscall.SIGSTOP)
			w.within(patience, func() bool { return w.lines.written() > before+15_000 })
		}
		w.kill()
		statsd.Signal(syscall.SIGCONT)
		<-sent
		statsd.lives(t, flushes, fmt.Sprintf("after.kill.%d", i))
		w.start()
		awaitListening(t, w.current().process, w.at.statsd)
	}
}

// statsdHealth: by UDP, its management port proves that it works again, long
// before a refused address would be tried.
func statsdHealth(t *testing.T) {
	flushes, second := startSink(t), startReceiver(t, receiverSpec{Network: "udp"}, manner{})
	first := startPlainStatsD(t, flushes.Addr)
	w := startWayOut(t, daemonPlan{statsd: to(fmt.Sprintf("udp://%s?health=%d", first.Addr, first.Console), second.URL)})
	first.Kill()
	w.sendUntilArrives("statsd", second)
	first.Restart(t)
	eventually(t, "the first is used again", func() error {
		status, err := w.current().Status()
		if err == nil && !status.Upstreams[0].Up {
			err = fmt.Errorf("it isn't: %+v", status.Upstreams)
		}
		return err
	})
}

// carbonCacheIsFull: it stops to read, and is neither reset nor left with
// connections that nobody has. (Without tags, which it would send to a Graphite over sockets of its own.)
func carbonCacheIsFull(t *testing.T) {
	carbon := newCarbonCache(t, "ENABLE_TAGS = False", "MAX_CACHE_SIZE = 500", "MAX_UPDATES_PER_SECOND = 20", "MAX_CREATES_PER_MINUTE = 600", "USE_FLOW_CONTROL = True")
	carbon.Start(t)
	w := startWayOut(t, daemonPlan{carbon: to("tcp://" + carbon.Addr)})
	up := w.awaitUp("tcp://" + carbon.Addr)
	before := carbon.sockets(t)
	var lines strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&lines, "host.full.%d 1 %d\n", i, time.Now().Unix())
	}
	send(t, "tcp", w.at.carbon, lines.String())
	w.sendFor("statsd", 10, 40*time.Second) // meanwhile
	if n := carbon.sockets(t); n > before {
		t.Errorf("carbon-cache has %d sockets, and had %d", n, before)
	}
	// It is not up while it takes nothing, but the connection is the one that it had.
	if now, err := w.upstream(up.Address); err != nil || now.Resolved == "" || len(w.said("upstream down")) > 0 {
		t.Errorf("the status says of it %+v (%v), and the log\n%s", now, err, strings.Join(w.said("upstream"), "\n"))
	}
}

// sockets returns how many sockets the server has.
func (c *carbonCache) sockets(t *testing.T) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", c.cmd.Process.Pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("descriptors of carbon-cache: %q, %v", files, err)
	}
	for _, file := range files {
		if to, err := os.Readlink(file); err == nil && strings.HasPrefix(to, "socket:") {
			n++
		}
	}
	return n
}

// A tlsServer starts a server with TLS that passes lines on to a receiver, and
// returns where it listens.
type tlsServer func(t *testing.T, pair keyPair, receiver, addr string) *process

func stunnel(t *testing.T, pair keyPair, receiver, addr string) *process {
	return startStunnel(t, fmt.Sprintf("accept = %s\nconnect = %s\ncert = %s\nkey = %s\n", addr, receiver, pair.cert, pair.key))
}

func startStunnel(t *testing.T, service string) *process {
	program := lookPath(t, "stunnel", "stunnel4")
	config := writeFile(t, "foreground = yes\npid =\n[carbon]\n"+service, t.TempDir(), "stunnel.conf")
	return start(t, exec.Command(program, config))
}

func carbonCRelayTLS(t *testing.T, pair keyPair, receiver, addr string) *process {
	program := lookPath(t, "carbon-c-relay", "carbon-c-relay")
	dir := t.TempDir()
	var both []byte
	for _, file := range []string{pair.cert, pair.key} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		both = append(both, text...)
	}
	pem := writeFile(t, string(both), dir, "relay.pem")
	text := fmt.Sprintf("cluster receiver forward %s;\nmatch * send to receiver stop;\nlisten type linemode transport plain ssl %s %s proto tcp;\n", receiver, pem, addr)
	config := writeFile(t, text, dir, "relay.conf")
	return start(t, exec.Command(program, "-f", config, "-s"))
}

// realTLS: lines arrive, and when the server is killed under load, none is lost.
func realTLS(t *testing.T, start tlsServer) {
	ca := newAuthority(t)
	pair := ca.issue("127.0.0.1", time.Hour)
	graphite := startReceiver(t, receiverSpec{}, behind)
	addr := fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	server := start(t, pair, graphite.Addr, addr)
	awaitListening(t, server, addr)
	w := startWayOut(t, daemonPlan{carbon: to("tls://"+addr) + ", " + trust(ca), replay: "4MiB"})
	w.counts(graphite)
	for range 3 {
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			w.sendFor("carbon", 5000, 2*time.Second)
		}()
		before := w.lines.arrivals(true)
		if !w.within(patience, func() bool { return w.lines.arrivals(true) > before+2000 }) {
			t.Fatal("no lines arrive")
		}
		server.Kill()
		server = start(t, pair, graphite.Addr, addr)
		<-sent
	}
	w.awaitDelivered("carbon")
}

func stunnelWantsCertificate(t *testing.T) {
	ca := newAuthority(t)
	pair := ca.issue("127.0.0.1", time.Hour)
	graphite := startReceiver(t, receiverSpec{}, behind)
	addr := fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	p := startStunnel(t, fmt.Sprintf("accept = %s\nconnect = %s\ncert = %s\nkey = %s\nCAfile = %s\nverifyChain = yes\n", addr, graphite.Addr, pair.cert, pair.key, ca.file))
	awaitListening(t, p, addr)
	w := startWayOut(t, daemonPlan{carbon: to("tls://"+addr) + ", " + trustAs(ca, ca.issue("homer", time.Hour))})
	w.counts(graphite)
	w.send("carbon", 1000, 1000)
	w.awaitDelivered("carbon")

	none := startWayOut(t, daemonPlan{carbon: to("tls://"+addr) + ", " + trust(ca)})
	none.send("carbon", 1000, 10)
	eventually(t, "a reason", func() error {
		if u, err := none.upstream("tls://" + addr); err != nil || u.Up || !strings.Contains(u.Reason, "certificate") && !strings.Contains(u.Reason, "handshake") {
			return fmt.Errorf("the status says of it %+v (%v), want that a certificate is missing", u, err)
		}
		return nil
	})
}
