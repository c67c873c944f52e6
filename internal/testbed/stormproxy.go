//go:build linux

package testbed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// stormTTL is the proxies' TTL: the least that there is.
const stormTTL = 5 * time.Second

const stormPool = "storm"

const stormConfig = `
membership: {pool: storm, owner: "%[1]d", names: {prefix: n, count: %[2]d}, ttl: 5s, state_dir: "${DIR}/state"}
etcd: {endpoints: [%[3]s], username: prefixproxy, password_file: %[8]s}
listen:
  statsd: ["udp://%[4]s"]
  carbon: ["unix://%[5]s"]
rewrite: {unmatched: drop}
forward:
  statsd: {to: ["%[6]s"]}
  carbon: {to: ["tcp://%[7]s"], queue: 1MiB, spool: 16MiB, replay: 64KiB}
admin: {listen: "unix://${DIR}/admin.sock"}
telemetry: {statsd: false}
aggregate: {interval: 1s}
`

// A stormProxy is one of the proxies, from its first start to the end of the
// storm, with all that happened to it. Its state directory makes it a host: with
// a fresh one it is another host, of the same owner.
type stormProxy struct {
	t        testing.TB
	number   int
	binary   string
	dir      string
	bridges  []*bridge // to each member of etcd
	load     *stormLoad
	suffers  sync.Mutex // held by the one fault that it suffers at a time
	lastHost string     // directory of state and queue

	mu     sync.Mutex
	daemon *daemon
	starts int
	looks  []look
	drops  map[int]map[string]uint64 // of Carbon lines, by reason: what each start's process showed last
	wrong  []string
}

// A look is one answer of /status.json: the state was this at some moment
// between asked and answered.
type look struct {
	proxy           int
	start           int // which one of the proxy's processes answered
	asked, answered time.Time
	state, name     string
	left            time.Duration // until the horizon
}

// newStormProxy returns a proxy that has not started.
func newStormProxy(t testing.TB, number int, plan stormPlan, net loopbacks, c *cluster, r *stormReceiver) *stormProxy {
	t.Helper()
	p := &stormProxy{t: t, number: number, binary: plan.binary, dir: t.TempDir(), drops: map[int]map[string]uint64{}}
	endpoints := ""
	for i, n := range c.nodes {
		addr := net.at(1+number, 2379+i)
		p.bridges = append(p.bridges, newBridge(t, addr, n.client, nil))
		endpoints += fmt.Sprintf(`"http://%s", `, addr)
	}
	p.load = &stormLoad{proxy: number, statsd: net.at(1+number, 8125), carbon: filepath.Join(p.dir, "carbon.sock")}
	statsd := "udp://" + r.statsd.spec.Addr
	if p.load.counted = number%2 == 1; p.load.counted {
		statsd = "carbon:"
	}
	password := writeFile(t, "p\n", p.dir, "password")
	config := fmt.Sprintf(stormConfig, number, plan.names, endpoints, p.load.statsd, p.load.carbon, statsd, r.carbon.spec.Addr, password)
	writeFile(t, config, p.dir, "config.yaml")
	return p
}

// start starts the proxy: as the host that it was, or as a fresh one.
func (p *stormProxy) start(fresh bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starts++
	if fresh || p.lastHost == "" {
		p.lastHost = filepath.Join(p.dir, fmt.Sprint("host", p.starts))
	}
	if err := os.MkdirAll(filepath.Join(p.lastHost, "run"), 0o700); err != nil {
		p.wrong = append(p.wrong, err.Error())
		return
	}
	cmd := exec.Command(p.binary, "run", "--config", filepath.Join(p.dir, "config.yaml"))
	cmd.Env = []string{"GORACE=halt_on_error=1", "DIR=" + p.lastHost, "RUNTIME_DIRECTORY=" + filepath.Join(p.lastHost, "run")}
	process, err := launch(cmd)
	if err != nil {
		p.wrong = append(p.wrong, err.Error())
		return
	}
	p.daemon = newDaemon(p.lastHost, process)
	p.daemon.http.Timeout = time.Second // one that is stopped does not answer
}

// current returns the process of now, or the last one, and which start it was.
func (p *stormProxy) current() (*daemon, int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.daemon, p.starts
}

// kill kills the process, which must not have ended by itself.
func (p *stormProxy) kill() {
	d, _ := p.current()
	if d.hasEnded() {
		p.complain("proxy %d has ended by itself; it said:\n%s", p.number, d.Stderr.tailText())
	}
	d.Kill()
}

// end ends the process by SIGTERM, when it has come so far that it takes one.
func (p *stormProxy) end() {
	d, _ := p.current()
	within(p.t.Context(), patience, func() bool { _, err := d.Status(); return err == nil })
	asked := time.Now()
	d.Signal(syscall.SIGTERM)
	select {
	case <-d.Ended():
	case <-time.After(patience):
		p.complain("proxy %d has not ended within %v of SIGTERM", p.number, patience)
		d.Kill()
	}
	if how := d.cmd.ProcessState; !how.Success() {
		p.complain("proxy %d ended by %v, %v after SIGTERM; it said:\n%s", p.number, how, time.Since(asked).Round(time.Millisecond), d.Stderr.tailText())
	}
}

// meet sets the passage to those members of etcd that are in the mask.
func (p *stormProxy) meet(mask int, way passage) {
	for i, b := range p.bridges {
		if mask&(1<<i) != 0 {
			b.set(0, way)
		}
	}
}

func (p *stormProxy) complain(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wrong = append(p.wrong, fmt.Sprintf(format, args...))
}

// lookEvery is how often a proxy is asked.
const lookEvery = 250 * time.Millisecond

// watch asks the proxy until ctx ends.
func (p *stormProxy) watch(ctx context.Context) {
	for ctx.Err() == nil {
		d, start := p.current()
		l := look{proxy: p.number, start: start, asked: time.Now()}
		status, err := d.Status()
		l.answered = time.Now()
		if err == nil {
			l.state, l.left = string(status.State), time.Duration(status.HorizonSeconds*float64(time.Second))
			if status.Name != nil {
				l.name = *status.Name
			}
			p.mu.Lock()
			if p.starts == start {
				p.looks = append(p.looks, l)
				p.drops[start] = status.Lines["carbon"].Dropped
			}
			p.mu.Unlock()
		}
		retry.Sleep(ctx, lookEvery)
	}
}

// seen returns the last look, if there is one at or after a moment.
func (p *stormProxy) seen(since time.Time) (look, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.looks); n > 0 && !p.looks[n-1].asked.Before(since) {
		return p.looks[n-1], true
	}
	return look{}, false
}
