package membership

import (
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

const simTTL = 15 * time.Second

// newSim returns a holder on a model of etcd, which is not running yet, and its way there. Without
// names, it has two.
func newSim(t *testing.T, e *model, names ...string) (*Holder, *way) {
	cfg := DefaultConfig()
	cfg.Owner, cfg.Names, cfg.TTL = "homer", []string{"Denali", "MtLogan"}, simTTL
	if len(names) > 0 {
		cfg.Names = names
	}
	w := &way{etcd: e, process: &process{clock: e.now, dead: make(chan struct{})}}
	w.exactly(false, 0)
	return newHolder(newStore(w.client(t.Context()), w, wayLeases{w: w}, cfg), nil, w.process.now, testLog(t)), w
}

// exactly has each answer take so long, or each request get lost.
func (w *way) exactly(lost bool, delay time.Duration) {
	w.set(func(w *way) {
		w.weather = weather{exact: true, slow: delay}
		if lost {
			w.weather.lost = 1
		}
	})
}

// pass lets the bubble's time go by, and what happens in it settle.
func pass(t *testing.T, d time.Duration) {
	retry.Sleep(t.Context(), d)
	synctest.Wait()
}

func TestHorizonCountsFromTheSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, way := newSim(t, e)
		way.exactly(false, time.Second) // every answer comes 1 s late
		r := run(t, h)

		// The grant was sent at 0; it took 1 s, and the claim another.
		c := r.held(t)
		if got, want := e.now(), 2*time.Second; got != want {
			t.Fatalf("held at %v, want %v", got, want)
		}
		if got, want := e.now()+c.Left(), 10*time.Second; got != want {
			t.Errorf("horizon after the claim: got %v, want %v", got, want)
		}

		// The first renewal was sent at 2.5 s, and is answered at 3.5 s.
		pass(t, time.Second)
		if got, want := e.now()+c.Left(), 10*time.Second; got != want {
			t.Errorf("horizon while the renewal is under way: got %v, want %v", got, want)
		}
		pass(t, 2*time.Second) // and it looks whether somebody asks for the name
		if got, want := e.now()+c.Left(), 12500*time.Millisecond; got != want {
			t.Errorf("horizon after the renewal: got %v, want %v", got, want)
		}
	})
}

func TestRenewalsKeepTheirRhythm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, way := newSim(t, e)
		run(t, h).held(t)
		pass(t, 5*time.Second)
		way.exactly(true, 0) // from 5 s on, each attempt ends after its 2.5 s
		pass(t, 5*time.Second)

		way.mu.Lock()
		defer way.mu.Unlock()
		want := []time.Duration{2500 * time.Millisecond, 5 * time.Second, 7500 * time.Millisecond, 10 * time.Second}
		if !slices.Equal(way.renewals, want) {
			t.Errorf("renewals sent at %v, want %v (the second of a failure at once)", way.renewals, want)
		}
	})
}

// Renewals are sent every TTL/6, 2.5 s at most; each has TTL/6, from 1 s to 10 s.
func TestRenewalsOfShortAndLongTTLs(t *testing.T) {
	for ttl, want := range map[time.Duration][2]time.Duration{
		6 * time.Second:  {time.Second, time.Second},
		5 * time.Second:  {5 * time.Second / 6, time.Second},
		15 * time.Second: {2500 * time.Millisecond, 2500 * time.Millisecond},
		30 * time.Second: {2500 * time.Millisecond, 5 * time.Second},
		time.Hour:        {2500 * time.Millisecond, 10 * time.Second},
	} {
		if got := [2]time.Duration{renewEvery(ttl), renewTime(ttl)}; got != want {
			t.Errorf("TTL %v: every %v with %v, want %v", ttl, got[0], got[1], want)
		}
	}
}

func TestSuspendedThenInUseAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, way := newSim(t, e)
		r := run(t, h)
		c := r.held(t)

		way.exactly(true, 0)
		pass(t, 10*time.Second-time.Nanosecond)
		if got, ok := r.Current(); got != c || !ok || r.State() != Held {
			t.Errorf("just before the horizon: claim %p good %v state %s, want %p true held", got, ok, r.State(), c)
		}
		suspended := r.Changed()
		pass(t, time.Nanosecond)
		if got, ok := r.Current(); got != c || ok || r.State() != Suspended {
			t.Errorf("at the horizon: claim %p good %v state %s, want %p false suspended", got, ok, r.State(), c)
		}
		if !isClosed(suspended) || isClosed(c.Done()) {
			t.Errorf("at the horizon: changed %v, claim over %v; want a change, and a claim that may go on", isClosed(suspended), isClosed(c.Done()))
		}

		pass(t, 2*time.Second) // the lease lives until 15 s
		changed := r.Changed()
		way.exactly(false, 0)
		<-changed
		if got, ok := r.Current(); got != c || !ok || r.State() != Held {
			t.Errorf("after a renewal: claim %p good %v state %s, want %p true held", got, ok, r.State(), c)
		}
		if got := r.Stats().Claims; got != 1 {
			t.Errorf("claims: got %d, want 1", got)
		}

		way.exactly(true, 0) // and now the lease runs out
		pass(t, 20*time.Second)
		way.exactly(false, 0)
		<-c.Done()
		if got, _ := r.Current(); got == c {
			t.Error("a claim that is over is the current one")
		}
	})
}

// The log tells of a suspension even if it began while the renewal that ended it was under way.
func TestSuspendedDuringARenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, way := newSim(t, newModel())
		var log strings.Builder
		h.log = slog.New(slog.NewTextHandler(&log, nil))
		run(t, h).held(t)
		for lost := 5 * time.Second; lost < 10*time.Second; lost += 100 * time.Millisecond {
			way.exactly(true, 0)
			pass(t, lost)
			way.exactly(false, 2*time.Second)
			pass(t, 10*time.Second)
			way.exactly(false, 0)
			pass(t, 10*time.Second)
		}
		suspended, inUse := strings.Count(log.String(), "name suspended"), strings.Count(log.String(), "name in use")
		if suspended == 0 || suspended != inUse {
			t.Errorf("suspended %d times, and in use again %d times", suspended, inUse)
		}
	})
}

// Whoever was stopped past the horizon says that the name was suspended, and then that it
// is in use again, or lost; and what that means for lines.
func TestStoppedPastTheHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, way := newSim(t, newModel())
		var log strings.Builder
		h.log = slog.New(slog.NewTextHandler(&log, nil))
		run(t, h).held(t)
		pass(t, time.Second)
		way.process.stop(12*time.Second, false) // the lease has 15
		pass(t, 13*time.Second)
		_, said, _ := strings.Cut(log.String(), "name claimed")
		if _, after, ok := strings.Cut(said, "name suspended"); !ok || !strings.Contains(after, "name in use") {
			t.Errorf("it says %s", said)
		}
		way.process.stop(20*time.Second, false)
		pass(t, 21*time.Second)
		for _, want := range []string{`meanwhile="lines that need it wait"`, `reason=expired meanwhile="lines that need a name wait"`} {
			if !strings.Contains(log.String(), want) { // what it means for the metrics
				t.Errorf("it says %s, without %s", &log, want)
			}
		}
	})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestLeaseRunsOutDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, way := newSim(t, e)
		r := run(t, h)
		old := r.held(t)
		way.exactly(true, 0)
		pass(t, 20*time.Second)
		way.exactly(false, 0)
		r.await(t, "another claim", func() bool { c, ok := r.Current(); return ok && c != old })
		if got := r.Stats().Losses[Expired]; got != 1 {
			t.Errorf("losses by expiry: got %d, want 1", got)
		}
		if old.Valid() {
			t.Error("the lost claim is good")
		}
	})
}

// A claim whose answer never comes may have gone through. If its lease runs out before that is
// known, the tenure was nobody's but ours, and we have not used the name: the next claim need not
// wait for its end.
func TestClaimWithoutAnAnswerWasOurs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, way := newSim(t, e)
		way.exactly(false, time.Second) // so slow a grant has no term
		r := run(t, h)
		pass(t, 500*time.Millisecond)
		way.exactly(false, time.Hour) // the claim goes through, unanswered
		pass(t, simTTL)
		way.exactly(false, 0)
		c := r.held(t)

		ts := e.tenures(h.cfg.Pool)
		if len(ts) != 2 || ts[0].Name != c.name || ts[0].Term != 0 || ts[0].Lease == c.lease {
			t.Fatalf("tenures are %+v, want two of %s, the first under a lease of no known term", ts, c.name)
		}
		if waited := time.Since(ts[1].From); waited > time.Second {
			t.Errorf("used %v after the claim, want at once", waited)
		}
		if name, ok := c.NameAt(ts[0].From.Unix() + 1); name != c.name || !ok {
			t.Errorf("a line of the time without an answer: got %q, want %s", name, c.name)
		}
	})
}

// A host that dies, and one that starts with its memory.
func TestTakeOver(t *testing.T) {
	for _, test := range []struct {
		name     string
		here     bool
		wantFrom time.Duration // after the start
	}{
		{"same boot, same directory", true, 0},
		{"copied or rebooted", false, simTTL},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newModel()
				dead, _ := newSim(t, e)
				dead.cfg.OnStop = Keep // what etcd sees of a crash
				r := run(t, dead)
				c := r.held(t)
				r.stop()

				h, _ := newSim(t, e)
				h.own.Before = &state.Claim{Pool: "default", Name: c.name, Lease: c.lease, Revision: c.revision, TTL: simTTL, Here: test.here}
				begin := e.now()
				got := run(t, h).held(t)
				if d := e.now() - begin; d != test.wantFrom {
					t.Errorf("used after %v, want %v", d, test.wantFrom)
				}
				if got.name != c.name || got.revision != c.revision || got.lease == c.lease {
					t.Errorf("took over %s at %d under %x, want %s at %d under another lease than %x", got.name, got.revision, got.lease, c.name, c.revision, c.lease)
				}
			})
		})
	}
}

// The original of a copied state directory never uses the name together with
// the copy, whether it can ask etcd or only has its clock.
func TestOriginalAndCopy(t *testing.T) {
	for _, test := range []struct {
		name   string
		cutOff bool
		want   Loss
	}{
		{"original connected", false, Overwritten},
		{"original cut off", true, Expired},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newModel()
				h, way := newSim(t, e)
				original := run(t, h)
				c := original.held(t)
				pass(t, 2*time.Second)
				way.exactly(test.cutOff, 0)

				h, _ = newSim(t, e)
				h.own.Before = &state.Claim{Pool: "default", Name: c.name, Lease: c.lease, Revision: c.revision, TTL: simTTL}
				copied := run(t, h)
				for range 40 {
					pass(t, 500*time.Millisecond)
					a, okA := original.Current()
					b, okB := copied.Current()
					if okA && okB && a.name == b.name {
						t.Fatalf("at %v both use %s", e.now(), a.name)
					}
				}
				if c, ok := copied.Current(); !ok || c.name != "Denali" {
					t.Errorf("claim of the copy: got %v %v, want Denali", c, ok)
				}
				way.exactly(false, 0)
				original.await(t, "a name of its own", func() bool { c, ok := original.Current(); return ok && c.name == "MtLogan" })
				if got := original.Stats().Losses; got[test.want] != 1 {
					t.Errorf("losses of the original: got %v, want 1 %s", got, test.want)
				}
			})
		})
	}
}

func TestDataLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, _ := newSim(t, e)
		witness := run(t, h)
		witness.held(t)

		changed := witness.Changed()
		e.restore(backup{}, false)
		<-changed
		if c, ok := witness.Current(); ok {
			t.Errorf("after the loss: claim on %s is good, want none", c.name)
		}
		lost := e.now()
		synctest.Wait()

		h, _ = newSim(t, e)
		newcomer := run(t, h) // knows of the loss by the marker alone
		pass(t, simTTL-time.Second)
		for who, r := range map[string]running{"witness": witness, "newcomer": newcomer} {
			if got := r.State(); got != Suspended {
				t.Errorf("state of the %s %v after the loss: got %s, want suspended", who, e.now()-lost, got)
			}
		}
		pass(t, time.Second)
		for who, r := range map[string]running{"witness": witness, "newcomer": newcomer} {
			if got := r.State(); got != Held {
				t.Errorf("state of the %s one TTL after the loss: got %s, want held", who, got)
			}
		}
		if got := witness.Stats().Losses[DataLoss]; got != 1 {
			t.Errorf("losses by data loss: got %d, want 1", got)
		}
	})
}

// Who waits lets go of its lease when etcd loses data, even if a backup has it: nobody can tell in
// which term it was granted, now that terms begin anew.
func TestNothingIsClaimedUnderALeaseFromBeforeALoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		e.term = 7
		h, _ := newSim(t, e, "Denali")
		e.byHand(pool.NamesKey(h.cfg.Pool)+"Denali", "somebody", false)
		r := run(t, h)
		pass(t, time.Minute)
		e.restore(e.backup(), true)
		pass(t, 2*simTTL)
		e.byHand(pool.NamesKey(h.cfg.Pool)+"Denali", "", true)
		r.held(t)
		ts := e.tenures(h.cfg.Pool)
		if len(ts) != 1 || ts[0].Term != e.term {
			t.Errorf("got %+v, want one tenure whose lease was granted in term %d", ts, e.term)
		}
	})
}

// However long the list, and whenever its turn to claim comes, a host tells of a loss at once.
func TestDataLossOfALongList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, _ := newSim(t, e, PrefixedNumerics("web-", 1000)...)
		h.jitter = func(d time.Duration) time.Duration { return d / 2 }
		c := run(t, h).held(t)
		e.restore(backup{}, false)
		<-c.Done()
		synctest.Wait()
		e.do(func() {
			if e.keys[pool.MarkerKey(h.cfg.Pool)] == nil {
				t.Error("there is no marker")
			}
		})
	})
}

// Whoever hears of a loss can ask why: it is counted by then.
func TestLossIsCountedBeforeItIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, _ := newSim(t, e)
		var held, lost bool
		h.wall = func() time.Time { // is asked when the tenure ends
			if c, _ := h.Current(); held && c == nil && !lost {
				lost = true
				if n := h.Stats().Losses[Deleted]; n != 1 {
					t.Errorf("%d are counted when there is no claim any more, want 1", n)
				}
			}
			return time.Now()
		}
		c := run(t, h).held(t)
		synctest.Wait()
		held = true
		e.byHand(c.key, "", true)
		<-c.Done()
		synctest.Wait()
		if !lost {
			t.Error("it was not asked")
		}
	})
}

func testClaim(name string, valid time.Duration, h history) *Claim {
	c := newClaim(name, "", 0, 0, "", boottime)
	c.history = h
	c.extendTo(boottime() + valid)
	return c
}

func TestExtendOnlyForward(t *testing.T) {
	c := testClaim("Denali", time.Hour, history{})
	c.extendTo(c.now() + time.Minute)
	if left := c.Left(); left < 59*time.Minute {
		t.Errorf("left after a shorter extension: got %v, want an hour", left)
	}
	past := testClaim("Denali", -time.Second, history{})
	if past.Valid() {
		t.Error("a claim past its horizon is good")
	}
	past.extendTo(past.now() + time.Hour)
	if !past.Valid() {
		t.Error("an extended claim is not good")
	}
}

// Who waits for a name while etcd can't be reached waits for etcd: nobody knows
// whether a name is free, and lines are held.
func TestWaitingInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		var holders [2]running
		for i := range holders {
			h, _ := newSim(t, e)
			holders[i] = run(t, h)
			holders[i].held(t)
		}
		h, w := newSim(t, e)
		r := run(t, h)
		pass(t, time.Second)
		if got := r.State(); got != Waiting {
			t.Fatalf("all taken: state %s, want waiting", got)
		}
		w.exactly(true, 0)
		pass(t, 6*time.Second)
		if got := r.State(); got != Claiming {
			t.Errorf("6 s into an outage: state %s, want claiming", got)
		}
		w.exactly(false, 0)
		pass(t, 5*time.Second)
		if got := r.State(); got != Waiting {
			t.Errorf("after it: state %s, want waiting", got)
		}

		// One is freed, and etcd takes no claim: its database is full.
		w.set(func(w *way) { w.weather.full = true })
		holders[0].stop()
		pass(t, time.Second)
		if got := r.State(); got != Claiming {
			t.Errorf("a claim refused: state %s, want claiming", got)
		}
	})
}

// A host that let go of its name on a wish takes it again once it may, if nobody else has: also
// if it asked for a name just before, and was answered just after.
func TestNameLetGoIsTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, w := newSim(t, e)
		w.process.clock = func() time.Duration { return e.now() * 99 / 100 } // its timers fire early
		w.exactly(false, 50*time.Millisecond)
		r := run(t, h)
		first := r.held(t)
		other, _ := newSim(t, e)
		run(t, other).held(t)
		e.byHand(pool.ReleasedKey(h.cfg.Pool)+first.name, pool.LeaseHex(first.lease), false)
		<-first.Done()
		begin := e.now()
		r.held(t)
		if d := e.now() - begin; d > simTTL+time.Second {
			t.Errorf("claimed again after %v, want some %v", d, simTTL)
		}
	})
}

// That a name was let go on a wish is on record even if the host ends in its last words.
func TestAskedForAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, _ := newSim(t, e)
		r := run(t, h)
		c := r.held(t)
		e.byHand(pool.ReleasedKey(h.cfg.Pool)+c.name, pool.LeaseHex(c.lease), false)
		<-c.Parting()
		r.stop()
		ts := e.tenures(h.cfg.Pool)
		if len(ts) != 1 || ts[0].Ended != pool.Released || e.keys[c.key] != nil {
			t.Errorf("got %+v, and %v at its key; want an end by release, and nothing", ts, e.keys[c.key])
		}
	})
}

// A lease is not revoked before the end of its tenure is on record: who finds none takes it that the
// lease ran out, and that the name was not used for the last third of that.
func TestNoLeaseIsRevokedWithoutAnEnd(t *testing.T) {
	for name, end := range map[string]func(h *Holder, e *model, r running, c *Claim){
		"stopped": func(_ *Holder, _ *model, r running, _ *Claim) { r.stop() },
		"asked for": func(h *Holder, e *model, _ running, c *Claim) {
			e.byHand(pool.ReleasedKey(h.cfg.Pool)+c.name, pool.LeaseHex(c.lease), false)
			<-c.Done()
		},
		"deleted": func(_ *Holder, e *model, _ running, c *Claim) {
			e.byHand(c.key, "", true)
			<-c.Done()
		},
		"overwritten": func(_ *Holder, e *model, _ running, c *Claim) {
			e.byHand(c.key, "somebody", false)
			<-c.Done()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				e := newModel()
				h, w := newSim(t, e)
				r := run(t, h)
				c := r.held(t)
				if name == "asked for" {
					go func() {
						<-c.Parting()
						w.set(func(w *way) { w.weather.full = true })
					}()
				} else {
					w.set(func(w *way) { w.weather.full = true })
				}
				end(h, e, r, c)
				ended := e.now()
				for lasts := true; lasts; pass(t, 100*time.Millisecond) {
					e.do(func() { lasts = e.leases[int64(c.lease)] != nil })
				}
				if d := e.now() - ended; d < simTTL/3 {
					t.Errorf("the lease is gone %v after its name's last use, want a third of the TTL", d)
				}
			})
		})
	}
}

// Where there is no other name, who waits gets it; and after one TTL without any,
// the one who let go takes it again.
func TestAskForTheOnlyName(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newModel()
		h, _ := newSim(t, e, "Denali")
		r := run(t, h)
		first := r.held(t)
		ask := func(of *Claim) {
			e.byHand(pool.ReleasedKey(h.cfg.Pool)+"Denali", pool.LeaseHex(of.lease), false)
		}
		ask(first)
		<-first.Done()
		begin := e.now()
		second := r.held(t)
		if d := e.now() - begin; d < simTTL || d > simTTL+time.Second {
			t.Errorf("claimed again after %v, want one TTL", d)
		}

		h, _ = newSim(t, e, "Denali")
		waiter := run(t, h)
		waiter.await(t, "to wait", func() bool { return waiter.State() == Waiting })
		ask(second)
		<-second.Done()
		begin = e.now()
		waiter.held(t)
		if d := e.now() - begin; d > time.Second {
			t.Errorf("who waits has it after %v, want a second at most", d)
		}
	})
}
