package testbed

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/prefixproxy/prefixproxy/internal/planted"
)

var (
	countedSeconds = flag.Int("counted.seconds", 4, "how long TestCounted sends")
	countedSeed    = flag.Uint64("counted.seed", 0, "seed of its faults; 0: the clock's")
	countedClock   = flag.Bool("counted.clock", false, "the daemon's wall clock is set, too; it is built for that, with all that knows of time")
)

const countedConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "unixgram://${DIR}/statsd.dgram", "unix://${DIR}/statsd.sock"]
  carbon: []
%s
forward:
  statsd: {to: [carbon:]}
  carbon: {to: ["tcp://${CARBON}"]}
telemetry:
  statsd: false
`

// Counters come by all kinds of sockets, while the daemon is killed, stopped, reloaded,
// loses its name, etcd and Graphite: the sum over all points in Graphite, of each counter,
// is what was sent, to the last unit.
func TestCounted(t *testing.T) {
	t.Parallel()
	seed := *countedSeed
	if seed == 0 {
		seed = uint64(time.Now().UnixNano())
	}
	t.Logf("-counted.seed %d", seed)
	c := &counted{t: t, kinds: countedKinds, random: rand.New(rand.NewPCG(seed, 0)), dir: t.TempDir(), sink: startSink(t), etcd: newEtcd(t)}
	c.etcd.Start(t)
	if *countedClock {
		c.kinds = append(c.kinds, "clock", "clock")
		c.binary = clockBinary(t)
		c.setClock(0)
	}
	c.start()
	for _, kind := range []string{"udp", "tcp", "unixgram", "unix"} {
		c.senders = append(c.senders, &countedSender{kind: kind})
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(*countedSeconds)*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		c.send(ctx, time.Duration(100+c.random.IntN(1500))*time.Millisecond)
		c.fault()
	}
	c.sink.Behave(manner{})
	if c.etcd.hasEnded() {
		c.etcd.Start(t)
	}
	c.restart(func() { c.stop() })
	c.awaitRead()
	c.stop()
	c.start() // what a stop could not send any more leaves now
	for _, s := range c.senders {
		eventually(t, "all points of "+s.kind, func() error {
			if got := c.sum(s.kind); got != s.sent {
				status, _ := c.daemon.Status()
				return fmt.Errorf("Graphite has %d of the %d increments by %s: %+v", got, s.sent, s.kind, status.Lines)
			}
			return nil
		})
	}
	checkBooks(t, c.daemon.AwaitUp(t))
	t.Logf("%v", c.faults)
}

// A counted is a daemon, and what is around it.
type counted struct {
	t        *testing.T
	random   *rand.Rand
	dir      string
	sink     *receiver
	etcd     *etcdProcess
	daemon   *daemon
	senders  []*countedSender
	kinds    []string // of faults, to pick from
	faults   map[string]int
	settings string // of rewrite and aggregate
	binary   string // of a daemon whose clock can be set; "": the usual one
	ahead    int8   // seconds by which its clock is

	since uint64 // lines sent since the daemon started
}

// countedSeries is how many counters a sender has: so many that a flush takes a while, in
// which the daemon may be killed.
const countedSeries = 300

// A countedSender sends counters of its own.
type countedSender struct {
	kind string
	conn net.Conn
	sent int
}

func (c *counted) start() {
	c.newSettings()
	cmd := commandIn(c.t, c.dir, "run", fmt.Sprintf(countedConfig, c.settings), "ETCD="+c.etcd.Endpoint, "CARBON="+c.sink.Addr, "CLOCK="+c.clock())
	if c.binary != "" {
		cmd.Path = c.binary
	}
	c.daemon = newDaemon(c.dir, start(c.t, cmd))
	c.daemon.AwaitUp(c.t)
	c.since = 0
	for _, s := range c.senders {
		if s.conn != nil {
			s.conn.Close()
			s.conn = nil
		}
	}
}

// newSettings changes what the next process, or a reload, finds otherwise.
func (c *counted) newSettings() {
	pick := func(from ...string) string { return from[c.random.IntN(len(from))] }
	c.settings = fmt.Sprintf("rewrite: {unmatched: drop, to: %q}\naggregate: {interval: %s, percentiles: [%d], layout: %s, tags: %s, memory: %s, expire: %s}",
		pick("{name}", "servers.{name}"), pick("1s", "1s", "2s", "3s"), 10+c.random.IntN(80), pick("plain", "statsd"), pick("graphite", "drop"), pick("1MiB", "64MiB"), pick("0s", "1s", "1m"))
}

func (c *counted) stop() {
	if code := c.daemon.Stop(c.t); code != 0 {
		c.t.Fatalf("exit code %d", code)
	}
}

// restart ends the daemon and starts another.
func (c *counted) restart(end func()) {
	end()
	c.start()
}

// send lets all senders send for so long, and waits until the daemon has read all.
func (c *counted) send(ctx context.Context, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	var sending sync.WaitGroup
	var sent atomic.Uint64
	for _, s := range c.senders {
		if s.conn == nil {
			s.conn = c.dial(s.kind)
		}
		sending.Go(func() {
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for {
				if _, err := fmt.Fprintf(s.conn, "host.%s.n%d:1|c\n", s.kind, s.sent%countedSeries); err != nil {
					c.t.Errorf("%s: %v", s.kind, err)
					return
				}
				s.sent++
				sent.Add(1)
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
		})
	}
	sending.Wait()
	c.since += sent.Load()
	c.awaitRead()
}

func (c *counted) dial(kind string) net.Conn {
	address := map[string]string{"unixgram": c.dir + "/statsd.dgram", "unix": c.dir + "/statsd.sock"}[kind]
	if address == "" {
		address = c.daemon.Address(c.t, "statsd", kind+"://")
	}
	conn, err := net.Dial(kind, address)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { conn.Close() })
	return conn
}

// awaitRead waits until the daemon has read what was sent: a kill would end what lies in
// its kernel's buffers.
func (c *counted) awaitRead() {
	c.t.Helper()
	eventually(c.t, "all lines read", func() error {
		status, err := c.daemon.Status()
		if err != nil {
			return err
		}
		if err := balance(status); err != nil {
			c.t.Fatal(err)
		}
		if got := status.Lines["statsd"].Received; got != c.since {
			return fmt.Errorf("%d of %d lines were received", got, c.since)
		}
		return nil
	})
}

var countedKinds = []string{"kill", "kill", "kill", "restart", "reload", "graphite", "graphite", "etcd", "name"}

// fault makes one fault at random; none of them waits for what it begins.
func (c *counted) fault() {
	if c.faults == nil {
		c.faults = map[string]int{}
	}
	kind := c.kinds[c.random.IntN(len(c.kinds))]
	c.faults[kind]++
	switch kind {
	case "kill":
		c.restart(c.daemon.Kill)
	case "restart":
		c.restart(func() { c.stop() })
	case "reload":
		c.reload()
	case "graphite":
		c.sink.Behave([]manner{{Refuse: true}, {Stall: true}, {}}[c.random.IntN(3)])
	case "etcd":
		if c.etcd.hasEnded() {
			c.etcd.Start(c.t)
		} else {
			c.etcd.Kill()
		}
	case "name":
		c.takeName()
	case "clock":
		if by := []int8{-7, -7, -7, 30}[c.random.IntN(4)]; c.ahead+by < 90 {
			c.setClock(c.ahead + by)
		}
	}
}

// clock is a file of one byte: by how many seconds the daemon's wall clock is ahead.
func (c *counted) clock() string { return filepath.Join(c.dir, "clock") }

func (c *counted) setClock(ahead int8) {
	c.ahead = ahead
	file, err := os.OpenFile(c.clock(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		c.t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt([]byte{byte(ahead)}, 0); err != nil {
		c.t.Fatal(err)
	}
}

// clockBinary builds the daemon with a wall clock that can be set: that of the machine is
// everybody's. time.Now adds what stands in the file $CLOCK; it may not make system
// calls, so that is mapped. Durations are as ever.
func clockBinary(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	goroot, err := exec.CommandContext(t.Context(), "go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	edit := func(file, old, new string) planted.Edit {
		path, err := filepath.Rel(root, filepath.Join(strings.TrimSpace(string(goroot)), "src/time", file))
		if err != nil {
			t.Fatal(err)
		}
		return planted.Edit{File: path, Old: old, New: new}
	}
	now := "func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n"
	read := "func readFile(name string) ([]byte, error) {\n"
	return planted.Binary(t, edit("time.go", now, now+"\tsec += ahead()\n"), edit("zoneinfo_read.go", read, `var clock = func() []byte {
	name, _ := syscall.Getenv("CLOCK")
	file, err := open(name)
	if err != nil {
		return nil
	}
	page, _ := syscall.Mmap(int(file), 0, 1, syscall.PROT_READ, syscall.MAP_SHARED)
	return page
}()

func ahead() int64 {
	if len(clock) == 0 {
		return 0
	}
	return int64(int8(clock[0]))
}

`+read))
}

// reload changes what can be changed while the daemon runs, and waits for that.
func (c *counted) reload() {
	said := strings.Count(c.daemon.Stderr.Text(), "configuration reloaded")
	was := c.settings
	c.newSettings()
	c.daemon.rewriteConfig(c.t, was, c.settings)
	eventually(c.t, "a reload", func() error {
		if strings.Count(c.daemon.Stderr.Text(), "configuration reloaded") == said {
			return fmt.Errorf("not yet")
		}
		return nil
	})
}

// takeName gives the daemon's name to somebody else, who does not write.
func (c *counted) takeName() {
	status := c.daemon.AwaitUp(c.t)
	if status.Name == nil || c.etcd.hasEnded() {
		return
	}
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{c.etcd.Endpoint}, Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	if _, err := client.Put(ctx, "/prefixproxy/default/names/"+*status.Name, "somebody"); err != nil {
		c.t.Fatal(err)
	}
}

// sum returns the sum over the last values of all points of a sender, under all names.
func (c *counted) sum(kind string) (sum int) {
	last := map[string]int{}
	for line := range strings.Lines(c.sink.Text()) {
		f := strings.Fields(line)
		if len(f) == 3 && strings.Contains(f[0], "."+kind+".n") && strings.HasSuffix(f[0], ".count") {
			n, err := strconv.Atoi(f[1])
			if err != nil {
				c.t.Fatalf("%q: %v", line, err)
			}
			last[f[0]+" "+f[2]] = n
		}
	}
	for _, n := range last {
		sum += n
	}
	return sum
}
