//go:build linux

package testbed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A fault is something that goes wrong while lines flow. It is over when run
// returns: then all that a relay has received must arrive.
type fault struct {
	name  string
	needs needs
	run   func(r *rig)

	inOthers bool // another fault has it in it, or TestWayOut: it comes in long runs only
}

// needs is what a fault needs that not every rig has.
type needs struct {
	sockets bool // the relay's listening sockets are passed to it
	faraway bool // the receiver can vanish
	disk    bool // the relay's disk can be full
	etcd    bool // an etcd of its own
}

// A rig is a relay at work: senders, the relay, and a receiver that keeps count.
//
//	senders ──► relay ──► receiver
type rig struct {
	t     testing.TB
	plan  rigPlan
	rng   *rand.Rand
	log   func(format string, args ...any)
	lines *tallier

	daemon   *daemonRelay
	receiver *faultReceiver
	load     *load
	faraway  *faraway        // nil unless the fault needs it
	disk     *smallDisk      // likewise
	etcd     *devetcd.Server // likewise

	kills      int      // of the relay
	wrong      []string // what a fault has found
	stop       context.CancelFunc
	background sync.WaitGroup
}

// A rigPlan says how a rig is made.
type rigPlan struct {
	binary   string // the daemon
	endpoint string // of an etcd that rigs share
	needs    needs
	senders  int
	rate     int           // Carbon lines a second
	quiet    time.Duration // without a line, after which nothing more is expected
	seed     uint64
	stretch  int // how much longer than need be outages last
}

// receiveBuffer is SO_RCVBUF of the receiver's connections, which the kernel
// doubles: what a killed one has not read is less than the replay window.
const receiveBuffer = faultReplay / 4

// newRig starts the parts of a rig. They end with the test.
func newRig(t testing.TB, plan rigPlan) *rig {
	t.Helper()
	r := &rig{t: t, plan: plan, lines: &tallier{}, rng: rand.New(rand.NewPCG(plan.seed, 0)), log: t.Logf}
	host := "127.0.0.1"
	r.receiver = &faultReceiver{t: t, lines: r.lines}
	if plan.needs.faraway {
		r.faraway = newFaraway(t)
		host, r.receiver.within = r.faraway.host, r.faraway.inside
	}
	r.receiver.spec = faultReceiverSpec{
		Carbon: receiverSpec{Addr: fmt.Sprintf("%s:%d", host, sidebyside.FreePort(t)), Buffer: receiveBuffer},
		StatsD: receiverSpec{Addr: fmt.Sprintf("%s:%d", host, sidebyside.FreePort(t)), Buffer: receiveBuffer},
	}
	r.receiver.start()
	t.Cleanup(r.receiver.kill)
	r.daemon = r.newDaemon()
	r.daemon.start()
	r.daemon.current().AwaitReady(t)
	r.begin()
	return r
}

func (r *rig) newDaemon() *daemonRelay {
	spec := r.receiver.spec
	plan := daemonPlan{
		binary: r.plan.binary, etcd: r.plan.endpoint,
		statsd: to("tcp://" + spec.StatsD.Addr), carbon: to("tcp://" + spec.Carbon.Addr),
		stateDir: "${DIR}/state", activated: r.plan.needs.sockets,
	}
	if r.plan.needs.disk {
		r.disk = newSmallDisk(r.t, 64*max(1, r.plan.stretch)) // room for an outage's backlog, and what is kept of it
		plan.stateDir = r.disk.dir
	}
	if r.plan.needs.etcd {
		r.etcd = devetcdtest.Start(r.t)
		plan.etcd = r.etcd.Endpoint()
	}
	return newDaemonRelay(r.t, plan)
}

// begin starts the senders, and who looks at the daemon.
func (r *rig) begin() {
	r.load = &load{senders: r.plan.senders, rate: r.plan.rate, lines: r.lines, addrs: r.daemon.at}
	sending, stopSending := context.WithCancel(r.t.Context())
	watching, stopWatching := context.WithCancel(r.t.Context())
	r.background.Go(func() { r.load.run(sending) })
	var watcher sync.WaitGroup
	watcher.Go(func() { r.daemon.watch(watching) })
	r.stop = func() {
		stopSending()
		r.background.Wait()
		r.settle()
		stopWatching()
		watcher.Wait()
	}
	r.t.Cleanup(func() {
		stopSending()
		stopWatching()
		r.background.Wait()
		watcher.Wait()
	})
}

// pause lets time pass: a fault lasts.
func (r *rig) pause(d time.Duration) { retry.Sleep(r.t.Context(), d) }

// outage is how long something is away that is away for d in a short run.
func (r *rig) outage(d time.Duration) time.Duration { return d * time.Duration(r.plan.stretch) }

// between returns a time between two.
func (r *rig) between(least, most time.Duration) time.Duration {
	return least + time.Duration(r.rng.Int64N(int64(most-least)))
}

// restart kills the relay and starts it again at once. It is stopped for
// a moment before, to see what it has read.
func (r *rig) restart() {
	r.kills++
	r.daemon.current().freeze()
	r.load.noteRead(r.kills)
	r.daemon.kill()
	r.daemon.start()
}

// complain notes what a fault found wrong.
func (r *rig) complain(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// within waits until ok, and says whether it came to that in time.
func (r *rig) within(d time.Duration, ok func() bool) bool { return within(r.t.Context(), d, ok) }

// recover ends an outage, by what end does, and waits until the relay has made
// up for it. It returns how that went.
func (r *rig) recover(end func()) drain {
	r.lines.beginDrain()
	end()
	r.pause(time.Second) // for live lines to come
	if !r.within(2*patience, r.madeUp) {
		r.complain("the backlog was not delivered within %v", 2*patience)
	}
	d := r.lines.endDrain()
	r.log("backlog of %d lines: %d lines/s; of %d live lines, half arrived within %d ms, and waited for %d lines of it", d.backlog, d.rate(), len(d.ages), median(d.ages), median(d.waited))
	return d
}

// madeUp says whether what waits in the relay is no more than comes in two
// seconds: in the first, a line that was sent may yet come to nothing.
func (r *rig) madeUp() bool {
	lines, up, err := r.daemon.waiting()
	return err == nil && up && lines <= 2*r.plan.rate && r.lines.hasLive()
}

// hasRoom says whether no more than three quarters of the daemon's queue are full.
func (r *rig) hasRoom() bool {
	_, metrics, err := r.daemon.current().Get("/metrics")
	_, rest, ok := strings.Cut(metrics, "\n"+`prefixproxy_queue_bytes{destination="",protocol="carbon"} `)
	value, _, _ := strings.Cut(rest, "\n")
	bytes, parseErr := strconv.ParseFloat(value, 64)
	return err == nil && ok && parseErr == nil && bytes <= faultQueue*3/4
}

// settle waits until all has arrived that is going to.
func (r *rig) settle() {
	last, since := -1, time.Now()
	r.within(2*patience, func() bool {
		arrived, missing := r.lines.count()
		if arrived != last || r.isWaiting() {
			last, since = arrived, time.Now()
		}
		quiet := r.plan.quiet
		if missing == 0 {
			quiet = min(quiet, time.Second) // but what is doubled may yet come, where it must be sent again
		}
		return time.Since(since) >= quiet
	})
}

// isWaiting says whether the relay holds lines that it could send.
func (r *rig) isWaiting() bool {
	lines, up, err := r.daemon.waiting()
	return err == nil && up && lines > 0
}

// verdict ends the load, and says what is wrong with what has arrived; nothing
// where all is well.
func (r *rig) verdict() []string {
	r.stop()
	out := r.wrong
	if n := r.lines.killsWithLoss(); n > max(1, r.kills/10) {
		out = append(out, fmt.Sprintf("%d of %d kills lost lines that the relay had read", n, r.kills))
	}
	if n := r.load.refused.Load(); r.plan.needs.sockets && n > 0 {
		out = append(out, fmt.Sprintf("%d connections were refused, though the sockets were open all the time", n))
	}
	out = append(out, r.daemon.problems()...)
	return append(out, r.lines.problems(r.daemon.forgiven())...)
}

// report fails the test for what is wrong.
func report(t testing.TB, wrong []string) {
	t.Helper()
	for i, w := range wrong {
		if i == 20 {
			t.Errorf("and %d more", len(wrong)-i)
			return
		}
		t.Error(w)
	}
}
