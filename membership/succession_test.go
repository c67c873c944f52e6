package membership

import (
	"log/slog"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A name is free, and its last holder may be there still or not: when does the
// next one use it? Both are real holders above the model of etcd.
func TestSuccession(t *testing.T) {
	const renewal = simTTL / 6
	for _, test := range []struct {
		name        string
		fault       func(s *simulation, last *host)
		least, most time.Duration // from the next one's claim to its use
		reason      string        // recorded of the last one
	}{
		{"released", func(s *simulation, last *host) { last.quit() }, 0, 0, pool.Released},
		{"killed, and one leader counted its time", func(s *simulation, last *host) { last.kill() }, 0, time.Second, string(Expired)},
		{"killed, and etcd's leader has changed", func(s *simulation, last *host) {
			s.newLeader()
			s.pause(2 * renewal)
			last.kill()
		}, simTTL, simTTL + renewal, string(Expired)},
		{"its key was deleted", func(s *simulation, last *host) { s.deleted("Denali") }, 0, 2*renewal + 200*time.Millisecond, string(Lost)},
		{"its key was deleted, and it is cut off from etcd", func(s *simulation, last *host) {
			last.process.way.set(func(w *way) { w.weather = weather{lost: 1} })
			s.deleted("Denali")
		}, simTTL, simTTL + renewal, string(Expired)},
		{"its key was overwritten, and freed", func(s *simulation, last *host) {
			s.etcd.byHand(pool.NamesKey(s.cfg.Pool)+"Denali", "marge", false)
			s.deleted("Denali")
		}, 0, 2*renewal + 200*time.Millisecond, string(Lost)},
		{"a former leader had its lease revoked", func(s *simulation, last *host) {
			s.newLeader()
			s.pause(2 * renewal)
			s.etcd.goOn(0, func() bool { return true })
		}, 0, 2*renewal + 200*time.Millisecond, string(Expired)},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				s := newScript(dir)
				last, next := s.newHost(), s.newHost()
				last.ahead.Store(0)
				next.ahead.Store(0)
				last.start()
				s.until(t, "the last one holds it", func() bool { return last.process.holder.State() == Held })
				began := time.Now()
				next.start()
				s.until(t, "the next one waits", func() bool { return next.process.holder.State() == Waiting })
				s.pause(10 * time.Second)

				test.fault(s, last)
				h := next.process.holder
				s.until(t, "the next one claims it", func() bool { c, _ := h.Current(); return c != nil })
				claimed := time.Now()
				s.until(t, "the next one uses it", func() bool { return h.State() == Held })
				took := time.Duration(float64(time.Since(claimed)) * next.rate)
				if looks := 10 * time.Millisecond; took < test.least-looks || took > test.most+looks { // each may be a little late
					t.Errorf("used %v after its claim, want %v to %v", took, test.least, test.most)
				}

				// Whose the seconds are.
				c, _ := h.Current()
				used := time.Now()
				if name, ok := c.NameAt(began.Unix()); ok {
					t.Errorf("a line of the last one's time is named %s", name)
				}
				if name, _ := c.NameAt(used.Unix() + 2); name != "Denali" {
					t.Errorf("a line of its own time: got %q, want Denali", name)
				}
				if _, ok := c.NameAt(claimed.Add(-time.Second).Unix()); ok {
					t.Error("a line of before the claim is named, and the last one may have written then")
				}

				s.pause(2 * firstWord)
				ts := s.etcd.tenures(s.cfg.Pool)
				if waited := test.least > 0; waited && ts[0].To.Unix() < used.Unix()-1 || ts[0].To.After(used) && !waited {
					t.Errorf("the last one's end is %v after the claim, and the name was used %v after it", ts[0].To.Sub(claimed), used.Sub(claimed))
				}
				if len(ts) != 2 || ts[0].Ended != test.reason || ts[1].Ended != "" {
					t.Errorf("records: got %+v, want two, of which the first ended by %s", ts, test.reason)
				}
				for _, v := range s.judge.violations {
					t.Error(v)
				}
				s.finish()
			})
		})
	}
}

// If an election may have come between a grant and its answer, the answer's term
// proves nothing.
func TestSlowGrantHasNoTerm(t *testing.T) {
	for delay, want := range map[time.Duration]uint64{0: 2, electionAtLeast: 2, electionAtLeast + time.Millisecond: 0} {
		t.Run(delay.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, s := newSim(t, newModel())
				s.exactly(false, delay)
				if err := h.grant(t.Context()); err != nil || h.lease.term != want {
					t.Errorf("got term %d (%v), want %d", h.lease.term, err, want)
				}
			})
		})
	}
}

// A lease is gone when etcd does not know it any more, and not before.
func TestIsGone(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	s := storeOf(c, testConfig(t))
	l, err := s.grant(t.Context())
	if err != nil || l.term != termOf(t, c) {
		t.Fatalf("got term %d (%v), want that of the leader", l.term, err)
	}
	for _, want := range []bool{false, true} {
		if gone, err := s.isGone(t.Context(), l.id); gone != want || err != nil {
			t.Errorf("got %v, %v; want %v", gone, err, want)
		}
		if err := s.revoke(t.Context(), l.id); err != nil {
			t.Fatal(err)
		}
	}
}

// newScript is a simulation of one name, whose faults are the test's own.
func newScript(dir string) *simulation {
	cfg := DefaultConfig()
	cfg.Names = Mountains()[:1]
	cfg.TTL = simTTL
	s := &simulation{
		cfg: cfg, log: slog.New(slog.DiscardHandler), rand: rand.New(rand.NewPCG(1, 5)),
		begin: time.Now(), dir: dir, etcd: newModel(),
	}
	s.judge = newJudge(s)
	s.etcd.wrote = s.judge.wrote
	return s
}

// newLeader changes etcd's leader.
func (s *simulation) newLeader() {
	s.etcd.depose()
	s.pause(time.Second)
	s.etcd.elect(1)
}

// until waits until what is so.
func (s *simulation) until(t *testing.T, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !so(); s.pause(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so in five minutes: %s\n%s", what, s.story())
		}
	}
}
