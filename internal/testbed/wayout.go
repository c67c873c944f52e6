//go:build linux

package testbed

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A wayOut is a daemon whose upstreams misbehave, and numbered lines that go
// through it.
type wayOut struct {
	*daemonRelay
	lines *tallier
	load  *load
}

// sharedEtcd is an etcd for daemons with a pool of their own. It ends with this
// process.
var sharedEtcd = sync.OnceValues(func() (*devetcd.Server, error) {
	return devetcd.Start(sharedEtcdDir)
})

// longTTL is the TTL where the etcd goes on: one that is slow for seconds, as on a busy machine, must
// end no claim. Its lines might not leave any more, or be of somebody else's time.
const longTTL = "30s"

// startWayOut starts a daemon, and waits until it has a name. Where plan names no
// upstreams of a protocol, its lines go to stdout.
func startWayOut(t testing.TB, plan daemonPlan) *wayOut {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	if plan.etcd == "" {
		etcd, err := sharedEtcd()
		if err != nil {
			t.Fatal(err)
		}
		plan.etcd = etcd.Endpoint()
		plan.ttl = longTTL
	}
	plan.binary, plan.stateDir = binary, "${DIR}/state"
	for _, upstreams := range []*string{&plan.statsd, &plan.carbon} {
		if *upstreams == "" {
			*upstreams = to(`"stdout:"`)
		}
	}
	w := &wayOut{daemonRelay: newDaemonRelay(t, plan), lines: &tallier{}}
	w.load = &load{lines: w.lines, addrs: w.at}
	w.start()
	w.current().AwaitName(t, nameArrived)
	ctx, stop := context.WithCancel(t.Context())
	var watcher sync.WaitGroup
	watcher.Go(func() { w.watch(ctx) })
	t.Cleanup(func() {
		stop()
		watcher.Wait()
	})
	return w
}

// counts makes the lines of receivers count as arrived.
func (w *wayOut) counts(receivers ...*receiver) {
	for _, r := range receivers {
		r.server.mu.Lock()
		r.lines = w.lines
		r.server.mu.Unlock()
	}
}

// send sends so many lines by TCP, at a rate in lines a second, and returns when
// the daemon has read them.
func (w *wayOut) send(protocol string, rate, lines int) {
	w.t.Helper()
	carbon := protocol == "carbon"
	conn := w.load.dial(w.t.Context(), pick(carbon, w.at.carbon, w.at.statsd))
	if conn == nil {
		w.t.Error("the daemon refuses connections")
		return
	}
	c := &sending{load: w.load, stream: w.lines.open(carbon, false), conn: conn, perWrite: 1000}
	c.run(w.t.Context(), rate, lines)
}

// sendFor is send, of as many lines as fill a time.
func (w *wayOut) sendFor(protocol string, rate int, d time.Duration) {
	w.t.Helper()
	w.send(protocol, rate, int(d.Seconds()*float64(rate)))
}

// awaitDelivered waits until the daemon holds no more lines of a protocol, and
// checks that of Carbon all have arrived, which are as many as it says that it
// has forwarded. Of StatsD, servers may have taken some that don't count.
func (w *wayOut) awaitDelivered(protocol string) {
	w.t.Helper()
	var b proxy.Books
	w.current().eventually(w.t, protocol+" lines delivered", func() error {
		status, err := w.current().Status()
		if b = status.Lines[protocol]; err == nil && b.Queued+b.Spooled > 0 {
			err = fmt.Errorf("%+v; upstreams %+v", b, status.Upstreams)
		}
		return err
	})
	carbon := protocol == "carbon"
	arrived := func() uint64 { return uint64(w.lines.arrivals(carbon)) }
	if carbon && !w.within(soon, func() bool { return arrived() == b.Forwarded }) || arrived() > b.Forwarded {
		w.t.Errorf("%d %s lines are forwarded, %d have arrived", b.Forwarded, protocol, arrived())
	}
	if carbon {
		report(w.t, w.lines.problems(0))
	}
	report(w.t, w.problems())
}

// lags says whether lines of a protocol that are sent no more wait all the same: no server has room for
// them.
func (w *wayOut) lags(protocol string) bool {
	w.t.Helper()
	return !w.within(time.Second, func() bool {
		status, err := w.current().Status()
		return err == nil && status.Lines[protocol].Queued == 0
	})
}

// awaitArrivals waits until so many different lines of a protocol have arrived,
// at least.
func (w *wayOut) awaitArrivals(protocol string, least int) {
	w.t.Helper()
	arrived := func() int { return w.lines.arrivals(protocol == "carbon") }
	if !w.within(patience, func() bool { return arrived() >= least }) {
		w.t.Errorf("%d %s lines have arrived, want %d", arrived(), protocol, least)
	}
}

// sendUntilArrives sends until one of the lines that it sends has arrived at a
// receiver.
func (w *wayOut) sendUntilArrives(protocol string, r *receiver) {
	w.t.Helper()
	before := len(r.Lines())
	ctx, stop := context.WithCancel(w.t.Context())
	var sending sync.WaitGroup
	sending.Go(func() {
		w.load.stream(ctx, protocol == "carbon", pick(protocol == "carbon", w.at.carbon, w.at.statsd), 20, 1, 0)
	})
	if !w.within(patience, func() bool { return len(r.Lines()) > before }) {
		w.t.Errorf("nothing has arrived at %s within %v", r.Addr, patience)
	}
	stop()
	sending.Wait()
}

// staysWith checks that all that is sent for a while arrives at one receiver.
func (w *wayOut) staysWith(protocol string, r *receiver, d time.Duration) {
	w.t.Helper()
	before := len(r.Lines())
	lines := int(d.Seconds() * 20)
	w.send(protocol, 20, lines)
	got := func() int { return len(r.Lines()) - before }
	if !w.within(soon, func() bool { return got() >= lines }) {
		w.t.Errorf("%d of %d lines that were sent have arrived at %s", got(), lines, r.Addr)
	}
}

// within waits until ok, and says whether it came to that in time.
func (w *wayOut) within(d time.Duration, ok func() bool) bool { return within(w.t.Context(), d, ok) }

// soon is how long what a server's kernel has already taken may need to be read.
const soon = 10 * time.Second

// arrivals returns how many different lines of a protocol have arrived.
func (l *tallier) arrivals(carbon bool) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		if s.carbon == carbon {
			n += s.arrived
		}
	}
	return n
}

// upstream returns what the status says of an address, as configured.
func (w *wayOut) upstream(url string) (proxy.UpstreamStatus, error) {
	status, err := w.current().Status()
	if err != nil {
		return proxy.UpstreamStatus{}, err
	}
	for _, u := range status.Upstreams {
		if u.Address == url {
			return u, nil
		}
	}
	return proxy.UpstreamStatus{}, fmt.Errorf("no upstream %s in %+v", url, status.Upstreams)
}

// awaitUp waits until an address, as configured, is used.
func (w *wayOut) awaitUp(url string) (u proxy.UpstreamStatus) {
	w.t.Helper()
	w.current().eventually(w.t, url+" up", func() (err error) {
		if u, err = w.upstream(url); err == nil && !u.Up {
			err = fmt.Errorf("it isn't: %+v", u)
		}
		return err
	})
	return u
}

// isUnused checks that the status says that a receiver isn't used, since when,
// and why.
func (w *wayOut) isUnused(r *receiver) {
	w.t.Helper()
	u, err := w.upstream(r.URL)
	if err != nil {
		w.t.Error(err)
	} else if u.Up || u.Reason == "" || u.Since.IsZero() {
		w.t.Errorf("the status says of it %+v, want that it isn't used, since when, and why", u)
	}
}

// unread returns what the kernel has of the connections of a receiver that it has
// not read.
func (r *receiver) unread() (out []byte) {
	r.server.mu.Lock()
	defer r.server.mu.Unlock()
	for c := range r.server.conns {
		raw, err := c.tcp.SyscallConn()
		if err != nil {
			r.t.Fatal(err)
		}
		block := make([]byte, 1<<20)
		raw.Control(func(fd uintptr) {
			if n, _, err := unix.Recvfrom(int(fd), block, unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil {
				out = append(out, block[:n]...)
			}
		})
	}
	return out
}

// arrivesInOrder checks that at least so many lines of the only stream arrived at
// a receiver, each once, and in their order.
func (w *wayOut) arrivesInOrder(r *receiver, least int) {
	w.t.Helper()
	lines := r.Lines()
	if len(lines) < least {
		w.t.Errorf("%d lines arrived, want %d at least", len(lines), least)
	}
	next := uint32(0)
	for i, line := range lines {
		n, ok := parseNumbered([]byte(line))
		if !ok || n.seq < next {
			w.t.Errorf("arrival %d of %d is %q, want number %d or a later one", i, len(lines), line, next)
			return
		}
		next = n.seq + 1
	}
}

// arrivesWithoutGap checks that at least so many lines of the only stream arrived
// at a receiver, and all that came after the first of them.
func (w *wayOut) arrivesWithoutGap(r *receiver, least int) {
	w.t.Helper()
	lines := r.Lines()
	if len(lines) < least {
		w.t.Errorf("%d lines arrived, want %d at least", len(lines), least)
	}
	for i, line := range lines {
		n, ok := parseNumbered([]byte(line))
		if want := w.lines.written() - len(lines) + i; !ok || int(n.seq) != want {
			w.t.Errorf("arrival %d of %d is %q, want number %d", i, len(lines), line, want)
			return
		}
	}
}

// written returns how many lines were sent by all streams.
func (l *tallier) written() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.streams {
		n += s.written
	}
	return n
}

// saidOnce checks that the log says of an address that it isn't used, but not
// again and again.
func (w *wayOut) saidOnce(address string) {
	w.t.Helper()
	w.awaitSaid(address, "")
	if said := w.said(address); len(said) > 4 {
		w.t.Errorf("the log has %d lines on %s, like\n%s\nwant no more than of down and up", len(said), address, strings.Join(said[:4], "\n"))
	}
}

// awaitSaid waits until the daemon's log, which comes by a pipe, mentions an address and
// text in one line.
func (w *wayOut) awaitSaid(address, text string) {
	w.t.Helper()
	has := func(line string) bool { return strings.Contains(line, text) }
	if !w.within(patience, func() bool { return slices.ContainsFunc(w.said(address), has) }) {
		w.t.Errorf("the log says of %s\n%s\nwant %q", address, strings.Join(w.said(address), "\n"), text)
	}
}

// said returns the lines of the daemon's log that mention an address.
func (w *wayOut) said(address string) (out []string) {
	for _, line := range w.current().Stderr.Lines() {
		if strings.Contains(line, address) {
			out = append(out, line)
		}
	}
	return out
}
