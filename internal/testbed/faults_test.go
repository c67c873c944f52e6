//go:build linux

package testbed

import (
	"flag"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/planted"
)

var (
	faultMinutes = flag.Int("faults.minutes", 0, "also run the long fault suite, for so many minutes")
	faultSeed    = flag.Uint64("faults.seed", 0, "seed of the fault suite; 0: another each time")
)

// seed returns the seed of a run, and prints it.
func seed(t testing.TB) uint64 {
	s := *faultSeed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("-faults.seed=%d", s)
	return s
}

// suitePlan is the plan of a short run. With the race detector all is slower.
func suitePlan(t testing.TB) rigPlan {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return rigPlan{
		binary: binary, endpoint: embeddedEtcd(t), seed: seed(t),
		senders: 4, rate: 400, quiet: pick(raceEnabled, 5*time.Second, 2*time.Second), stretch: 1,
	}
}

// Each fault costs no line that was received, on a rig of its own.
func TestFaults(t *testing.T) {
	t.Parallel()
	plan := suitePlan(t)
	for i, f := range faults {
		if f.inOthers {
			continue
		}
		plan := plan
		plan.needs, plan.seed = f.needs, plan.seed+uint64(i)
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			report(t, suffer(newRig(t, plan), f))
		})
	}
}

// suffer lets a rig suffer a fault, and returns the verdict.
func suffer(r *rig, f fault) []string {
	r.pause(time.Second)
	f.run(r)
	wrong := r.verdict()
	logToll(r)
	return wrong
}

func logToll(r *rig) {
	toll := r.lines.toll()
	r.log("%d lines by tcp: %d lost, %d doubled", toll.written, toll.lost, toll.doubled)
	d := r.daemon
	r.log("daemon killed %d times, stopped %d times; at most %d MiB resident; %d scrapes", d.killed, d.stopped, d.peak>>20, d.scrapes)
}

// often is how often a fault comes in a deck of the long run; others come once.
// In all the relay is killed a hundred times and stopped twenty times.
var often = map[string]int{
	"none":                              0,
	"relay killed":                      10,
	"relay killed, its sockets live on": 9,
	"relay killed while the receiver is down":  9,
	"relay killed while the receiver stalls":   5,
	"relay killed while the receiver pauses":   5,
	"relay stopped under load":                 6,
	"relay stopped while the receiver is down": 2,
	"receiver killed in mid-stall":             3,
	"receiver resets in mid-line":              3,
}

// All faults, one after the other, in any order, on one rig.
func TestFaultsLong(t *testing.T) {
	if *faultMinutes == 0 {
		t.Skip("-faults.minutes=N runs it")
	}
	span := time.Duration(*faultMinutes) * time.Minute
	if end, ok := t.Deadline(); ok && time.Until(end) < span+5*time.Minute {
		t.Fatalf("go test ends before %d minutes and what comes after: add -timeout=%dm", *faultMinutes, *faultMinutes+10)
	}
	plan := suitePlan(t)
	root := os.Getuid() == 0
	plan.needs = needs{sockets: true, etcd: true, faraway: root, disk: root}
	plan.rate, plan.stretch = pick(raceEnabled, 2000, 10_000), 10
	if *faultMinutes < 5 {
		plan.stretch = 1
	}
	r := newRig(t, plan)
	start := time.Now()
	for i := 0; time.Since(start) < span; {
		for _, f := range deck(r) {
			if time.Since(start) >= span {
				break
			}
			i++
			t.Logf("%v: %d: %s", time.Since(start).Round(time.Second), i, f.name)
			f.run(r)
		}
	}
	wrong := r.verdict()
	logToll(r)
	report(t, wrong)
}

// deck returns the faults of a long run in their order.
func deck(r *rig) (out []fault) {
	have := r.plan.needs
	for _, f := range faults {
		if f.needs.faraway && !have.faraway || f.needs.disk && !have.disk {
			continue
		}
		n, ok := often[f.name]
		if !ok {
			n = 1
		}
		for range n {
			out = append(out, f)
		}
	}
	r.rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// oldSession makes each session as good as one that has lasted: of a young one,
// all is sent again anyway.
var oldSession = planted.Edit{File: "internal/store/cursor.go", Old: "young = 21 * time.Second", New: "young = 0"}

// A bug that costs lines is seen: the suite goes red with the daemon that has
// it.
func TestFaultsSeeBugs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		bug   string
		fault string // that sees it
		says  string // in the verdict
		edits []planted.Edit
	}{
		{"what was written counts as acknowledged", "receiver killed in mid-stall", "lost", []planted.Edit{oldSession,
			{File: "internal/link/stream.go", Old: "peer.Acked = min(peer.Acked, l.written)", New: "peer.Acked = l.written"},
		}},
		{"no replay", "receiver killed in mid-stall", "lost", []planted.Edit{oldSession,
			{File: "internal/store/session.go", Old: "	return c.Replay + min(c.window+c.window/4, c.Queue/2)\n", New: "	return 0\n"},
		}},
		{"what a young session took is delivered", "receiver resets after 3 s", "lost", []planted.Edit{oldSession}},
		{"the kernel lingers on", "relay killed while the receiver pauses", "nobody sent", []planted.Edit{
			{File: "internal/link/stream.go", Old: "err = l.tcp.SetLinger(0)", New: "err = l.tcp.SetLinger(-1)"},
		}},
		{"live lines wait their turn", "receiver down, and slow when it is back", "of the live lines waited", []planted.Edit{
			{File: "internal/store/cursor.go", Old: "liveAge = time.Second / 2", New: "liveAge = 0 * time.Second"},
		}},
		{"the queue is not adopted", "relay killed while the receiver is down", "lost", []planted.Edit{
			{File: "internal/store/open.go", Old: "	c.todo, c.queues[fresh] = p.Todo, slices.Clone(p.Todo)\n", New: ""},
		}},
	} {
		t.Run(tt.bug, func(t *testing.T) {
			planted.Patience(t, tt.edits...)
			t.Parallel()
			f, err := faultNamed(tt.fault)
			if err != nil {
				t.Fatal(err)
			}
			plan := suitePlan(t)
			plan.needs, plan.binary = f.needs, planted.Binary(t, tt.edits...)
			wrong := suffer(newRig(t, plan), f)
			if !strings.Contains(strings.Join(wrong, "\n"), tt.says) {
				t.Errorf("the verdict is %q, want it to say %q", wrong, tt.says)
			}
		})
	}
}
