package membership

import (
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

var (
	simSchedules = flag.Int("sim.schedules", 30, "how many random schedules TestSimulation runs")
	simSeed      = flag.Uint64("sim.seed", 0, "run this schedule alone, with its log")
	simFrom      = flag.Uint64("sim.from", 1, "the seed of the first schedule")
)

// The holder and a model of etcd in random schedules of faults: never are two
// claims on one name valid at once, but for what the specification does not
// promise, which is counted apart and bounded; and when the faults are over,
// everybody has a name or waits for one.
//
// A schedule depends on its seed alone. One that fails prints its seed and what
// happened:
//
//	go test ./membership -run TestSimulation -sim.seed=17 -v
func TestSimulation(t *testing.T) {
	if *simSeed != 0 {
		simulate(t, *simSeed, slog.New(slog.NewTextHandler(t.Output(), nil)))
		return
	}
	var next atomic.Uint64
	var mu sync.Mutex
	var all tally
	begin := time.Now()
	t.Run("schedules", func(t *testing.T) {
		for i := range runtime.GOMAXPROCS(0) {
			t.Run(fmt.Sprint("worker", i), func(t *testing.T) {
				t.Parallel()
				for n := next.Add(1); n <= uint64(*simSchedules) && !t.Failed(); n = next.Add(1) {
					counted := simulate(t, *simFrom+n-1, slog.New(slog.DiscardHandler))
					mu.Lock()
					all.add(counted)
					mu.Unlock()
				}
			})
		}
	})
	t.Logf("%d schedules in %v: %d faults, %d claims, %d uses, %d lines named and %d not, %d overlaps of those excepted, the longest %v after its fault, and %d of leases from before a restore",
		all.schedules, time.Since(begin).Round(time.Millisecond), all.faults, all.claims, all.uses, all.lines, all.nameless, all.excepted, all.longest, all.revoked)
	if all.schedules >= 300 && all.excepted == 0 {
		t.Error("no schedule came to what the specification excepts: the faults are too mild to prove anything")
	}
}

// simulate runs the schedule of a seed.
func simulate(t *testing.T, seed uint64, log *slog.Logger) (counted tally) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s := newSimulation(seed, dir, log)
		s.run()
		counted = s.judge.tally
		if len(s.judge.violations) > 0 {
			t.Errorf("schedule %d: %s\nRerun it with -sim.seed=%d. What happened:\n%s", seed, s.judge.violations[0], seed, s.story())
		}
	})
	return counted
}

// A simulation is one schedule: its world, and the one goroutine that makes the
// faults.
type simulation struct {
	cfg    Config
	log    *slog.Logger
	rand   *rand.Rand // of the goroutine that makes the faults
	begin  time.Time
	length time.Duration // of the time with faults
	dir    string

	etcd   *model
	judge  *judge
	hosts  []*host
	faults []fault
	quiet  bool // nothing delays a renewal, so that what is excused ends with the next one

	backup  backup         // that a restore brings back
	wiped   bool           // etcd lost data
	pending sync.WaitGroup // what ends the faults

	striking sync.Mutex // of the hosts' busy and process, and of
	leading  bool       // a fault has etcd's leader

	telling sync.Mutex
	told    []event
}

// An event is a line of the story that a failed schedule tells.
type event struct {
	at     time.Duration
	format string
	args   []any
}

func newSimulation(seed uint64, dir string, log *slog.Logger) *simulation {
	r := rand.New(rand.NewPCG(seed, 5))
	cfg := DefaultConfig()
	cfg.Names = Mountains()[:2+r.IntN(5)]
	cfg.TTL = time.Duration(5+r.IntN(11)) * time.Second
	s := &simulation{
		cfg:    cfg,
		log:    log,
		rand:   r,
		begin:  time.Now(),
		length: 30*time.Second + time.Duration(r.Int64N(int64(60*time.Second))),
		dir:    dir,
		etcd:   newModel(),
	}
	s.judge = newJudge(s)
	s.etcd.wrote = s.judge.wrote
	for range 3 + r.IntN(6) {
		s.newHost()
	}
	switch seed % 8 {
	case 0:
		s.faults = allFaults()
	case 1:
		s.faults = slices.Concat(harmlessFaults(), handFaults)
	case 2:
		s.faults, s.quiet = slices.Concat(handFaults, lossFaults), true
	case 3:
		s.faults = slices.Concat(lossFaults, cutFaults, restartFaults)
	case 4:
		s.faults = slices.Concat(copyFaults, cutFaults, restartFaults)
	default: // none that excuses anything
		s.faults = harmlessFaults()
	}
	return s
}

// newHost adds a host, whose clock goes its own way.
func (s *simulation) newHost() *host {
	h := &host{
		sim:  s,
		name: fmt.Sprint("host-", len(s.hosts)+1),
		seed: s.rand.Uint64(),
		rate: 0.98 + 0.04*s.rand.Float64(),
		zero: s.begin.Add(-s.upTo(1000 * time.Hour)),
	}
	h.disk = h.seed
	h.setClock(rand.New(rand.NewPCG(h.seed, 7)))
	h.dir = filepath.Join(s.dir, h.name)
	if err := os.Mkdir(h.dir, 0o700); err != nil {
		panic(err)
	}
	s.hosts = append(s.hosts, h)
	return h
}

func (s *simulation) now() time.Duration { return time.Since(s.begin) }

func (s *simulation) upTo(d time.Duration) time.Duration {
	return time.Duration(s.rand.Int64N(int64(d)))
}

// ttls returns a time of lo to hi TTLs.
func (s *simulation) ttls(lo, hi float64) time.Duration {
	return time.Duration((lo + (hi-lo)*s.rand.Float64()) * float64(s.cfg.TTL))
}

func (s *simulation) trace(format string, args ...any) {
	s.telling.Lock()
	defer s.telling.Unlock()
	s.told = append(s.told, event{s.now(), format, args})
}

func (s *simulation) story() string {
	s.telling.Lock()
	defer s.telling.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "%d hosts, %d names, TTL %v\n", len(s.hosts), len(s.cfg.Names), s.cfg.TTL)
	for _, e := range s.told {
		fmt.Fprintf(&b, "%9.3f s  %s\n", e.at.Seconds(), fmt.Sprintf(e.format, e.args...))
	}
	return b.String()
}

// run runs the schedule: faults, then quiet, then the end.
func (s *simulation) run() {
	// 1. Everybody starts, most at once.
	for _, h := range s.hosts {
		h.start()
		if s.rand.IntN(3) == 0 {
			s.pause(s.upTo(2 * time.Second))
		}
	}
	// 2. Faults, which last into each other.
	for s.now() < s.length {
		s.pause(200*time.Millisecond + s.upTo(3*time.Second))
		s.strike()
	}

	// 3. Some time later everybody has a name, or waits.
	s.finish()
}

// finish waits until the faults are over, looks whether all is well some time
// later, and ends all.
func (s *simulation) finish() {
	s.pending.Wait()
	s.trace("the faults are over")
	s.pause(s.settling())
	s.checkSettled()
	for _, h := range s.hosts {
		if h.process != nil {
			h.quit()
		}
	}
	s.pause(time.Minute) // what comes late has come
	s.etcd.expiry.Stop()
	s.judge.tally.schedules = 1
}

func (s *simulation) pause(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
}

// strike makes a random fault.
func (s *simulation) strike() {
	f := s.faults[s.rand.IntN(len(s.faults))]
	h := s.anyHost()
	if h == nil {
		return
	}
	if s.rand.IntN(8) == 0 {
		s.backup = s.etcd.backup()
	}
	s.judge.tally.faults++
	s.trace("%s: %s", h.name, f.name)
	f.strike(s, h)
}

// anyHost returns a host whose process runs and that no fault has to itself;
// nil if there is none.
func (s *simulation) anyHost() *host {
	s.striking.Lock()
	defer s.striking.Unlock()
	h := s.hosts[s.rand.IntN(len(s.hosts))]
	if h.busy || h.process == nil {
		return nil
	}
	return h
}

// later runs f in d; the faults are not over before.
func (s *simulation) later(d time.Duration, f func()) {
	s.pending.Go(func() {
		s.pause(d)
		f()
	})
}

// occupy keeps other faults from h until f has run, in a goroutine of its own.
func (s *simulation) occupy(h *host, f func()) {
	s.striking.Lock()
	h.busy = true
	s.striking.Unlock()
	s.pending.Go(func() {
		f()
		s.striking.Lock()
		h.busy = false
		s.striking.Unlock()
	})
}

// settling returns how long after the last fault all is well again.
func (s *simulation) settling() time.Duration { return 2*s.cfg.TTL + 5*time.Second }

// checkSettled checks that each process holds a name or waits for one, and that
// nobody waits while one is free.
func (s *simulation) checkSettled() {
	waiting := s.checkStates()
	if free := s.freeNames(); waiting > 0 && free > 0 {
		s.judge.say("%d wait, and %d names are free", waiting, free)
	}
}

func (s *simulation) checkStates() (waiting int) {
	for _, h := range s.hosts {
		if h.process == nil {
			continue
		}
		switch state := h.process.holder.State(); state {
		case Held:
		case Waiting:
			waiting++
		default:
			s.judge.say("%s is still %s, %v after the last fault", h.name, state, s.settling())
		}
	}
	return waiting
}

func (s *simulation) freeNames() (free int) {
	s.etcd.do(func() {
		for _, name := range s.cfg.Names {
			if s.etcd.keys[pool.NamesKey(s.cfg.Pool)+name] == nil {
				free++
			}
		}
	})
	return free
}
