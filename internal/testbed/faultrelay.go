//go:build linux

package testbed

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/admin"
	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// relayAddrs is where the daemon listens, as host:port.
type relayAddrs struct{ carbon, carbonUDP, statsd, statsdUDP string }

// What a daemon may hold, in bytes.
const (
	faultQueue  = 16 << 20
	faultReplay = 256 << 10
	faultMemory = 48<<20 + 2*faultQueue + faultReplay
)

const faultConfig = `
membership: {pool: %[1]s, names: [%[8]s, %[9]s], ttl: %[11]s, state_dir: "%[2]s"}
etcd: {endpoints: ["%[3]s"]}
listen:
  statsd: ["udp://%[4]s", "tcp://%[4]s"]
  carbon: ["tcp://%[5]s", "udp://%[5]s"]
forward:
  statsd: {%[6]s, queue: 16MiB}
  carbon: {%[7]s, queue: 16MiB, spool: 1GiB, replay: %[10]s}
admin: {listen: "unix://${DIR}/admin.sock"}
telemetry: {statsd: false}
`

// A daemonRelay is the real program. It is looked at all the time: its books
// and its memory.
type daemonRelay struct {
	t      testing.TB
	binary string
	dir    string // of its configuration and its page
	run    string // its runtime directory, on tmpfs
	at     relayAddrs
	passed []*os.File // its listening sockets, where they are ours
	within []string   // what starts it in a mount namespace of its own; nil: in ours

	mu      sync.Mutex
	daemon  *daemon
	killed  int // times
	stopped int // times
	wrong   []string
	peak    int // bytes resident, the most so far
	scrapes int
}

// A daemonPlan says how a daemonRelay is made.
type daemonPlan struct {
	binary         string // the program
	etcd           string // client URL
	statsd, carbon string // upstreams, as in the configuration: see to
	replay         string // "" is faultReplay
	ttl            string // "" is 5s
	stateDir       string
	activated      bool   // its sockets are passed to it, as systemd does
	resolver       string // addresses of its DNS servers; "": the machine's
}

// to is the configuration of a failover list.
func to(urls ...string) string { return fmt.Sprintf("to: [%s]", strings.Join(urls, ", ")) }

func newDaemonRelay(t testing.TB, plan daemonPlan) *daemonRelay {
	t.Helper()
	statsd, carbon := fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t)), fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	r := &daemonRelay{
		t: t, binary: plan.binary, dir: t.TempDir(), run: sidebyside.MemoryDir(t),
		at: relayAddrs{carbon: carbon, carbonUDP: carbon, statsd: statsd, statsdUDP: statsd},
	}
	if plan.resolver != "" {
		r.resolve(strings.Fields(plan.resolver)...)
	}
	pool := "faults-" + strconv.Itoa(sidebyside.FreePort(t)) // as unique as a port
	config := fmt.Sprintf(faultConfig, pool, plan.stateDir, plan.etcd, statsd, carbon, plan.statsd, plan.carbon, nameArrived, nameNext, cmp.Or(plan.replay, "256KiB"), cmp.Or(plan.ttl, "5s"))
	writeFile(t, config, r.dir, "config.yaml")
	if plan.activated {
		r.bind()
	}
	return r
}

// bind opens the listening sockets. They stay open until the end of the test:
// whoever connects while there is no daemon waits in the backlog.
func (r *daemonRelay) bind() {
	for _, addr := range []string{r.at.statsd, r.at.carbon} {
		tcp, err := net.Listen("tcp", addr)
		if err != nil {
			r.t.Fatal(err)
		}
		defer tcp.Close()
		udp, err := net.ListenPacket("udp", addr)
		if err != nil {
			r.t.Fatal(err)
		}
		defer udp.Close()
		r.passed = append(r.passed, fileOf(r.t, tcp.(*net.TCPListener)), fileOf(r.t, udp.(*net.UDPConn)))
	}
}

// resolve lets the daemon ask the DNS servers at addrs, one of them without much patience.
func (r *daemonRelay) resolve(addrs ...string) {
	needRoot(r.t, "a mount namespace")
	lookPath(r.t, "unshare", "util-linux")
	var conf strings.Builder
	for _, addr := range addrs {
		host, _, _ := net.SplitHostPort(addr) // its port is 53
		fmt.Fprintf(&conf, "nameserver %s\n", host)
	}
	if len(addrs) == 1 {
		conf.WriteString("options timeout:1 attempts:1\n")
	}
	file := writeFile(r.t, conf.String(), r.dir, "resolv.conf")
	r.within = []string{"unshare", "--mount", "sh", "-c", `mount --bind "$0" /etc/resolv.conf && exec "$@"`, file}
}

func (r *daemonRelay) start() {
	r.t.Helper()
	cmd := exec.Command(r.binary, "run", "--config", filepath.Join(r.dir, "config.yaml"))
	if r.passed != nil {
		pass(cmd, r.passed)
	}
	if r.within != nil {
		cmd = exec.Command(r.within[0], append(r.within[1:], cmd.Args...)...)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "GODEBUG=netdns=go"}
	}
	cmd.Env = append(cmd.Env, "GORACE=halt_on_error=1", "DIR="+r.dir, "RUNTIME_DIRECTORY="+r.run)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.daemon = newDaemon(r.dir, start(r.t, cmd))
}

func (r *daemonRelay) current() *daemon {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.daemon
}

func (r *daemonRelay) kill() {
	r.checkAlive()
	r.current().Kill()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.killed++
}

func (r *daemonRelay) stop() {
	r.t.Helper()
	r.checkAlive()
	if code := r.current().Stop(r.t); code != 0 {
		r.complain("exit code %d after SIGTERM", code)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped++
}

// checkAlive complains when the daemon has ended by itself.
func (r *daemonRelay) checkAlive() {
	if r.current().hasEnded() {
		r.complain("the daemon has ended by itself")
	}
}

// complain notes what is wrong, the first few times.
func (r *daemonRelay) complain(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.wrong) < 10 {
		r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
	}
}

// watch looks at the daemon until ctx ends.
func (r *daemonRelay) watch(ctx context.Context) {
	for ctx.Err() == nil {
		d := r.current()
		status, err := d.Status()
		if err == nil {
			r.look(d, status)
		}
		retry.Sleep(ctx, time.Second/2)
	}
}

// look notes what one answer of the daemon says.
func (r *daemonRelay) look(d *daemon, status admin.Status) {
	if err := balance(status); err != nil {
		r.complain("%v", err)
	}
	peak, err := peakMemory(d.cmd.Process.Pid)
	if err == nil && peak > faultMemory && !raceEnabled {
		r.complain("%d MiB are resident, more than 48 MiB, the queues and replay: %d MiB", peak>>20, faultMemory>>20)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scrapes++
	r.peak = max(r.peak, peak)
}

// waiting returns how many Carbon lines wait in the daemon, and whether its
// Carbon upstream is up.
func (r *daemonRelay) waiting() (lines int, up bool, err error) {
	status, err := r.current().Status()
	if err != nil {
		return 0, false, err
	}
	for _, u := range status.Upstreams {
		up = up || u.Protocol == "carbon" && u.Up
	}
	b := status.Lines["carbon"]
	return int(b.Queued + b.Spooled), up, nil
}

// forgiven returns how many Carbon lines by UDP may be missing: those of
// datagrams that the kernel dropped, and any where the daemon was killed. A daemon that
// is stopped leaves us the sockets that it was passed.
func (r *daemonRelay) forgiven() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.killed > 0 {
		return math.MaxInt
	}
	return kernelDrops(r.at.carbonUDP) * linesPerDatagram
}

// problems returns what is wrong with the daemon so far.
func (r *daemonRelay) problems() []string {
	r.checkAlive()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.scrapes == 0 {
		return append(r.wrong, "the daemon was never seen")
	}
	return r.wrong
}

// peakMemory returns the bytes that a process had resident at most: VmHWM of
// proc_pid_status(5).
func peakMemory(pid int) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no VmHWM", pid)
}

// kernelDrops returns how many datagrams the kernel has dropped at the UDP
// socket of a port: the last column of /proc/net/udp.
func kernelDrops(addr string) (n int) {
	_, port, _ := net.SplitHostPort(addr)
	number, _ := strconv.Atoi(port)
	text, _ := os.ReadFile("/proc/thread-self/net/udp")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) > 12 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", number)) {
			drops, _ := strconv.Atoi(f[len(f)-1])
			n += drops
		}
	}
	return n
}
