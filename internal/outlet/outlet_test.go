package outlet

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

const (
	atA = "10.0.0.1:2003"
	atB = "10.0.0.2:2003"
)

var discard = slog.New(slog.DiscardHandler)

var toBoth = []string{"tcp://" + atA, "tcp://" + atB}

// However a server hangs up, the next gets the lines, and what is wrong with the
// first is said once, and shown.
func TestFirstHangsUp(t *testing.T) {
	for _, after := range []time.Duration{0, 300 * time.Millisecond, 3 * time.Second} {
		for _, how := range []error{link.ErrClosed, errors.New("connection reset by peer")} {
			net := newNet(atA, atB)
			net.servers[atA].hangUp, net.servers[atA].endErr = after, how
			run(t, net, toBoth, func(t *testing.T, r *rig) {
				r.send(time.Minute)
				if n := len(net.servers[atB].lines()); n < r.sent/2 {
					t.Errorf("%v %v: %d of %d lines at the second", after, how, n, r.sent)
				}
				if s := r.Status(); s[0].Up || s[0].Reason == "" || !s[1].Up || s[1].Reason != "" {
					t.Errorf("%v %v: status %+v", after, how, s)
				}
				if n := r.logged("upstream down", atA); n != 1 {
					t.Errorf("%v %v: said %d times:\n%s", after, how, n, r.log)
				}
				if n := len(net.servers[atA].attempts()); n > 12 {
					t.Errorf("%v %v: %d attempts in a minute", after, how, n)
				}
			})
		}
	}
}

// Of five servers, four end each session soon. That costs the time of two; then the last is used,
// and not left for one that only stays open for as long.
func TestLastOfFive(t *testing.T) {
	const last = "10.0.0.5:2003"
	for _, after := range []time.Duration{0, 300 * time.Millisecond, 3 * time.Second, provenAge - minRest} {
		net := newNet(atA, atB, "10.0.0.3:2003", "10.0.0.4:2003", last)
		var to []string
		for at, s := range net.servers {
			to = append(to, "tcp://"+at)
			if at != last {
				s.hangUp, s.endErr = after, link.ErrClosed
			}
		}
		slices.Sort(to)
		run(t, net, to, func(t *testing.T, r *rig) {
			limit := 2*after + time.Second
			r.send(limit)
			if n := len(net.servers[last].lines()); n == 0 {
				t.Errorf("%v: the last has no lines after %v", after, limit)
			}
			r.send(time.Minute)
			for at, s := range net.servers {
				if n := s.sessions(); n > 2 {
					t.Errorf("%v: %d sessions with %s", after, n, at)
				}
			}
		})
	}
}

// While the first one works, no other hears of us: not even at the start.
func TestOthersAreLeftAlone(t *testing.T) {
	net := newNet(atA, atB)
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(time.Minute)
		if n := len(net.servers[atB].attempts()); n > 0 {
			t.Errorf("%d attempts to connect to the second", n)
		}
	})
}

// That a connection stayed open before it was used is no proof that its server works: one that
// resets each 3.5 s after it got something is left alone for long.
func TestFirstResetsLate(t *testing.T) {
	net := newNet(atA, atB)
	net.servers[atA].refuses = 3500 * time.Millisecond
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(2 * time.Minute)
		if n := net.servers[atA].sessions(); n > 4 {
			t.Errorf("%d sessions with the first", n)
		}
	})
}

// A balancer may need long to find that it has no backend: a server that ends each session
// after some seconds is left for a second that doesn't, though the name of either needs a while to be looked up.
func TestFirstHangsUpLate(t *testing.T) {
	reset := errors.New("connection reset by peer")
	const seldom = 400 * time.Millisecond
	for _, c := range []struct {
		after  time.Duration
		how    error
		pause  time.Duration // between lines
		to     []string
		lookUp time.Duration
	}{
		{6 * time.Second, link.ErrClosed, seldom, toBoth, 0}, {19 * time.Second, reset, seldom, toBoth, 0}, {61 * time.Second, link.ErrClosed, seldom, toBoth, 0},
		{6 * time.Second, link.ErrClosed, 10 * time.Second, toBoth, 0}, {20100 * time.Millisecond, link.ErrClosed, 10 * time.Second, toBoth, 0},
		{6 * time.Second, reset, seldom, []string{"tcp://graphite:2003", toBoth[1]}, 300 * time.Millisecond},
		{6 * time.Second, reset, seldom, []string{"tcp://graphite:2003", "tcp://backup:2003"}, 5 * time.Second},
		{time.Second, reset, seldom, []string{toBoth[0], "tcp://backup:2003"}, 5 * time.Second},
		{time.Millisecond, reset, seldom, []string{toBoth[0], "tcp://backup:2003"}, 5 * time.Second},
	} {
		net := newNet(atA, atB)
		net.name("graphite", "10.0.0.1")
		net.name("backup", "10.0.0.2")
		net.needs = c.lookUp
		net.servers[atA].hangUp, net.servers[atA].endErr = c.after, c.how
		run(t, net, c.to, func(t *testing.T, r *rig) {
			for begun := time.Now(); time.Since(begun) < time.Hour; sidebyside.Pass(c.pause) {
				r.send(100 * time.Millisecond)
			}
			if n := len(net.servers[atB].lines()); n < r.sent*3/4 {
				t.Errorf("%+v: %d of %d lines at the second", c, n, r.sent)
			}
			if n := r.logged("upstream down", atA); n == 0 || n > 7 {
				t.Errorf("%+v: said %d times:\n%s", c, n, r.log)
			}
		})
	}
}

// Whatever servers do, the loop goes on; a write that does not return in its time is seen.
func TestPulse(t *testing.T) {
	net := newNet(atA, atB)
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		loop := pulse.Watch{Limit: 30 * time.Second}
		watch := func(d time.Duration) (stuck int) {
			for until := time.Now().Add(d); time.Now().Before(until); {
				r.send(5 * time.Second)
				if loop.Stuck(time.Now(), []pulse.Loop{r.Pulse()}) != nil {
					stuck++
				}
			}
			return stuck
		}
		all := func(f func(s *fakeServer)) { net.servers[atA].set(f); net.servers[atB].set(f) }
		stuck := watch(time.Minute)
		all(func(s *fakeServer) { s.stall = true })
		stuck += watch(time.Minute)
		all(func(s *fakeServer) { s.stall, s.needs, s.endErr = false, time.Hour, link.ErrClosed })
		net.servers[atA].last().end(link.ErrClosed)
		net.servers[atB].last().end(link.ErrClosed)
		stuck += watch(time.Minute)
		all(func(s *fakeServer) { s.needs, s.endErr = 0, nil })
		if stuck += watch(time.Minute); stuck > 0 {
			t.Errorf("the loop seemed stuck %d times while servers failed", stuck)
		}
		// The second is in use, the first is dialled beside it, and nothing is sent.
		var open []*fakeLink
		net.servers[atA].set(func(s *fakeServer) {
			s.dialErr = errors.New("connection refused")
			open = slices.Clone(s.links)
		})
		for _, l := range open {
			l.end(link.ErrClosed)
		}
		watch(10 * time.Second)
		before := len(net.servers[atA].attempts())
		for range 60 {
			sidebyside.Pass(5 * time.Second)
			if loop.Stuck(time.Now(), []pulse.Loop{r.Pulse()}) != nil {
				t.Fatal("the loop seemed stuck while it had nothing to do")
			}
		}
		if len(net.servers[atA].attempts()) == before {
			t.Error("the first was not dialled")
		}
		net.servers[atA].set(func(s *fakeServer) { s.dialErr = nil })
		watch(time.Minute)
		hang := make(chan struct{})
		all(func(s *fakeServer) { s.hang = hang })
		if watch(time.Minute) == 0 {
			t.Error("a write hung for a minute, and nobody saw it")
		}
		all(func(s *fakeServer) { s.hang = nil })
		close(hang)
		watch(10 * time.Second)
		if watch(time.Minute) > 0 {
			t.Error("the loop goes on, and seems stuck")
		}
	})
}

// A server that refuses comes back: it is used when a connection to it has stayed
// open, and not before.
func TestFirstIsTakenBack(t *testing.T) {
	net := newNet(atA, atB)
	a := net.servers[atA]
	a.dialErr = errors.New("connection refused")
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(10 * time.Second)
		a.set(func(s *fakeServer) { s.dialErr, s.endErr, s.hangUp = nil, link.ErrClosed, time.Second })
		r.send(time.Minute)
		if n := len(a.lines()); n > 0 {
			t.Errorf("%d lines to a server that hangs up after a second", n)
		}
		if n := net.servers[atB].sessions(); n != 1 {
			t.Errorf("%d sessions with the second, want one that lasts", n)
		}
		a.set(func(s *fakeServer) { s.endErr = nil })
		before := r.sent
		for r.Status()[0].Resolved == "" {
			r.send(100 * time.Millisecond)
		}
		if s := r.Status(); s[1].Reason != "an earlier address is tried" {
			t.Errorf("status while the first is on trial: %+v", s)
		}
		r.send(maxRest + 5*time.Second)
		if s := r.Status(); !s[0].Up || s[1].Up || s[1].Reason != "an earlier address works" {
			t.Errorf("status %+v", s)
		}
		if got := len(a.lines()) + len(net.servers[atB].lines()); got != r.sent {
			t.Errorf("%d lines arrived of %d", got, r.sent)
		}
		if len(a.lines()) == 0 {
			t.Errorf("none of %d lines came to the first", r.sent-before)
		}
	})
}

// A server that can't be connected to rests for 0.1 s, doubling to 30 s, and is taken back when a
// connection to it has stayed open for 2 s.
func TestRests(t *testing.T) {
	const seek = 1500 * time.Millisecond // it may be tried so much later
	net := newNet(atA, atB)
	a := net.servers[atA]
	a.dialErr = errors.New("connection refused")
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(5 * time.Minute)
		at := a.attempts()
		if len(at) < 12 {
			t.Fatalf("only %d attempts", len(at))
		}
		for i, rest := 1, 100*time.Millisecond; i < len(at); i, rest = i+1, min(2*rest, 30*time.Second) {
			if gap := at[i].Sub(at[i-1]); gap < rest || gap > rest+seek {
				t.Errorf("attempt %d after %v, want %v", i+1, gap, rest)
			}
		}
		a.set(func(s *fakeServer) { s.dialErr = nil })
		for range 400 {
			if r.send(100 * time.Millisecond); len(a.lines()) > 0 {
				break
			}
		}
		at = a.attempts()
		if took := time.Since(at[len(at)-1]); took < 2*time.Second || took > 2500*time.Millisecond {
			t.Errorf("taken back %v after it was connected to, want 2s", took)
		}
	})
}

// A server that takes nothing is left for another, and not taken back because it
// accepts connections; alone, it is waited for, but is not up meanwhile.
func TestStalled(t *testing.T) {
	net := newNet(atA, atB)
	net.servers[atA].stall = true
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(5 * time.Second)
		if n := len(net.servers[atB].lines()); n > 0 {
			t.Errorf("the second has %d lines before the first has taken nothing for 5 s", n)
		}
		r.send(time.Second) // though it is being asked whether it reads
		if n := len(net.servers[atB].lines()); n == 0 {
			t.Error("the second has no line")
		}
		r.send(stallTime - time.Second)
		if got := r.Status()[0].Reason; !strings.Contains(got, "reads nothing") {
			t.Errorf("reason %q", got)
		}
		if down, stalls := r.logged("upstream down", "reads nothing"), r.logged("upstream takes nothing"); down != 1 || stalls != 0 {
			t.Errorf("said %d and %d times:\n%s", down, stalls, r.log)
		}
		r.send(10 * time.Minute)
		if n := len(net.servers[atA].attempts()); n > 6 {
			t.Errorf("%d attempts in ten minutes", n)
		}
	})
	net = newNet(atA)
	net.servers[atA].stall = true
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.send(time.Minute)
		if got := r.Status()[0]; got.Up || !strings.Contains(got.Reason, "takes nothing") || time.Since(got.Since) < 50*time.Second || r.IsUp() {
			t.Errorf("status %+v", got)
		}
		net.servers[atA].set(func(s *fakeServer) { s.stall = false })
		r.send(2 * time.Second)
		if got := r.Status()[0]; !got.Up || got.Reason != "" {
			t.Errorf("it takes again: status %+v", got)
		}
		if a, b := r.logged("upstream takes nothing", "stopped, or overloaded"), r.logged("takes lines again"); a != 1 || b != 1 {
			t.Errorf("said %d and %d times", a, b)
		}
		if n := len(net.servers[atA].attempts()); n != 1 || len(net.servers[atA].lines()) != r.sent {
			t.Errorf("%d connections, %d of %d lines", n, len(net.servers[atA].lines()), r.sent)
		}
	})
}

// A server that stalls is left as soon as ever, though an earlier address is being tried, which
// answers nothing.
func TestStalledBehindSilent(t *testing.T) {
	net := newNet(atA, atB, "10.0.0.3:2003")
	net.servers[atA].needs = never
	run(t, net, append(toBoth, "tcp://10.0.0.3:2003"), func(t *testing.T, r *rig) {
		r.send(time.Minute)
		if n := len(net.servers[atB].lines()); n == 0 {
			t.Fatal("the second has no line")
		}
		net.servers[atB].set(func(s *fakeServer) { s.stall = true })
		r.send(stallTime + 2*time.Second)
		if n := len(net.servers["10.0.0.3:2003"].lines()); n == 0 {
			t.Error("the third has no line")
		}
	})
}

// That a server's host is gone is said, not that the server reads nothing.
func TestCutOff(t *testing.T) {
	for _, to := range [][]string{toBoth[:1], toBoth} {
		net := newNet(atA, atB)
		net.servers[atA].stall, net.servers[atA].cutOff = true, true
		run(t, net, to, func(t *testing.T, r *rig) {
			r.send(2 * stallTime)
			if got := r.Status()[0]; got.Up || !strings.Contains(got.Reason, "host answers nothing") || r.logged("WARN", "host answers nothing") != 1 {
				t.Errorf("status %+v\n%s", got, r.log)
			}
		})
	}
}

// A server that can be connected to, and whose host then answers nothing, is sent small packets, and
// long ones again where that is no better. One whose host answered for long has gone.
func TestNarrow(t *testing.T) {
	net := newNet(atA)
	a := net.servers[atA]
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		want := func(small ...bool) {
			t.Helper()
			r.send(goneAfter + stallTime)
			a.mu.Lock()
			defer a.mu.Unlock()
			for i, l := range a.links {
				if i < len(small) && l.small != small[i] {
					t.Errorf("connection %d: small packets are %v", i, l.small)
				}
			}
			if len(a.links) != len(small) {
				t.Errorf("%d connections, want %d", len(a.links), len(small))
			}
		}
		a.set(func(s *fakeServer) { s.unread, s.cutOff, s.silence = true, true, goneAfter })
		want(false, true)
		want(false, true, false)
		a.set(func(s *fakeServer) { s.unread, s.cutOff = false, false })
		want(false, true, false)
		a.set(func(s *fakeServer) { s.unread, s.cutOff = true, true })
		want(false, true, false, false)
	})
}

// A server that nobody reads is left for another though its kernel takes all, and not taken
// back until it reads.
func TestReadsNothing(t *testing.T) {
	net := newNet(atA, atB)
	a, b := net.servers[atA], net.servers[atB]
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		left := func(within time.Duration) {
			t.Helper()
			before := r.sent - len(b.lines())
			a.set(func(s *fakeServer) { s.mute = true })
			r.send(10 * time.Minute)
			if n := r.sent - len(b.lines()) - before; n > int(within/(100*time.Millisecond)) {
				t.Errorf("%d lines went to a server that reads nothing", n)
			}
			if s := r.Status(); s[0].Up || !strings.Contains(s[0].Reason, "reads nothing") || !s[1].Up {
				t.Errorf("status %+v", s)
			}
		}
		left(askAfter + passTime + 2*stallTime)
		if n := r.logged("upstream down", atA, "reads nothing"); n != 1 {
			t.Errorf("said %d times:\n%s", n, r.log)
		}
		a.set(func(s *fakeServer) { s.mute = false })
		r.send(maxUDPRest)
		if s := r.Status(); !s[0].Up {
			t.Errorf("it reads again: status %+v", s)
		}
		left(askInterval + passTime + 2*stallTime)
		if n := a.sessions(); n != 2 {
			t.Errorf("%d sessions with a server that has read once, want 2", n)
		}
	})
}

// A server that hangs while it is in use, and shakes no more hands, is left, too.
func TestReadsNothingAndShakesNoHands(t *testing.T) {
	net := newNet(atA, atB)
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(time.Minute)
		net.servers[atA].set(func(s *fakeServer) { s.mute, s.dialErr = true, link.ErrUnanswered })
		r.send(askInterval + passTime + 2*stallTime)
		if s := r.Status(); !s[1].Up {
			t.Errorf("status %+v", s)
		}
	})
}

// Of two servers that nobody reads, none is better.
func TestBothReadNothing(t *testing.T) {
	net := newNet(atA, atB)
	a, b := net.servers[atA], net.servers[atB]
	a.mute, b.mute = true, true
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(time.Hour)
		if n := a.sessions() + b.sessions(); n > 2 {
			t.Errorf("%d sessions, want one with each", n)
		}
		a.set(func(s *fakeServer) { s.mute = false })
		r.send(maxUDPRest + time.Minute)
		if s := r.Status(); !s[0].Up {
			t.Errorf("the first reads again: status %+v", s)
		}
		r.send(maxUDPRest)
		a.set(func(s *fakeServer) { s.mute = true })
		r.send(10 * time.Minute)
		if a, b := a.sessions(), b.sessions(); a != 2 || b != 1 {
			t.Errorf("%d sessions with the first, %d with the second, which read nothing before: want 2 and 1", a, b)
		}
		b.set(func(s *fakeServer) { s.mute = false })
		r.send(maxUDPRest + time.Minute)
		if s := r.Status(); !s[1].Up {
			t.Errorf("the second reads again: status %+v", s)
		}
	})
}

// A server that was being asked when other upstreams were configured is asked again.
func TestReadsNothingAndConfigured(t *testing.T) {
	net := newNet(atA, atB)
	net.servers[atA].mute = true
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(askAfter + stallTime/2)
		r.Configure(Config{To: addresses(t, toBoth...), MaxAge: time.Hour})
		r.send(askAfter + 2*passTime + 2*stallTime)
		if s := r.Status(); !s[1].Up {
			t.Errorf("status %+v", s)
		}
	})
}

// Who is alone is waited for. A server is not left, either, because it serves one connection at
// a time, or because it is the only one that can be connected to.
func TestReadsOneAtATime(t *testing.T) {
	for _, c := range []struct {
		name     string
		to       []string
		set      func(first, second *fakeServer)
		sessions int
	}{
		{"alone", toBoth[:1], func(first, _ *fakeServer) { first.mute = true }, 1},
		{"beside a dead one", toBoth, func(first, second *fakeServer) { first.mute, second.dialErr = true, errors.New("no route") }, 1},
		{"one at a time", toBoth, func(first, _ *fakeServer) { first.single = true }, 3},
	} {
		net := newNet(atA, atB)
		a, b := net.servers[atA], net.servers[atB]
		c.set(a, b)
		run(t, net, c.to, func(t *testing.T, r *rig) {
			r.send(2 * patientInterval)
			if n := len(a.lines()); n != r.sent || a.sessions() > c.sessions {
				t.Errorf("%s: %d of %d lines came to the first, in %d sessions; want all, in %d", c.name, n, r.sent, a.sessions(), c.sessions)
			}
			if s := r.Status(); !s[0].Up {
				t.Errorf("%s: status %+v", c.name, s)
			}
		})
	}
}

// Silence of a UDP server that failed is no proof: it is tried again after a minute,
// two, four, up to ten.
func TestUDPRests(t *testing.T) {
	net := newNet(atA, atB)
	a := net.servers[atA]
	a.hangUp, a.endErr = 120*time.Millisecond, errors.New("connection refused")
	run(t, net, []string{"udp://" + atA, "udp://" + atB}, func(t *testing.T, r *rig) {
		r.send(40 * time.Minute)
		at := a.attempts()
		for i, least := range []time.Duration{1, 2, 4, 8, 10} {
			if i+1 >= len(at) {
				t.Fatalf("only %d attempts", len(at))
			}
			if gap := at[i+1].Sub(at[i]); gap < least*time.Minute || gap > least*time.Minute+5*time.Second {
				t.Errorf("attempt %d after %v, want %d min", i+2, gap, least)
			}
		}
	})
}

// A server that refuses datagrams, and is far away, is given one at a time, which stays ours.
func TestRefusesLate(t *testing.T) {
	net := newNet(atA)
	a := net.servers[atA]
	a.refuses = 120 * time.Millisecond
	run(t, net, []string{"udp://" + atA}, func(t *testing.T, r *rig) {
		r.send(2 * time.Second)
		lost := r.source.gone()
		r.send(20 * time.Second)
		if n := r.source.gone() - lost; n > 0 {
			t.Errorf("%d lines are lost", n)
		}
		a.set(func(s *fakeServer) { s.refuses = 0 })
		r.send(maxRetry + 2*time.Second)
		if n := len(a.lines()); n < r.sent-lost {
			t.Errorf("%d of %d lines", n, r.sent-lost)
		}
	})
}

// The first of two addresses of a name doesn't answer.
func TestSilentAddress(t *testing.T) {
	net := newNet(atA, atB, "10.0.0.3:2003")
	net.servers[atA].needs, net.servers["10.0.0.3:2003"].needs = never, never
	net.name("graphite", "10.0.0.1", "10.0.0.3", "10.0.0.2")
	run(t, net, []string{"tcp://graphite:2003"}, func(t *testing.T, r *rig) {
		r.send(3 * time.Second)
		if got := r.Status()[0]; !got.Up || got.Resolved != atB {
			t.Errorf("after 3 s: %+v", got)
		}
	})
}

// A name whose lines go by UDP is resolved again, and its session follows.
func TestNameMoves(t *testing.T) {
	net := newNet(atA, atB)
	net.name("statsd", "10.0.0.1")
	run(t, net, []string{"udp://statsd:2003"}, func(t *testing.T, r *rig) {
		r.send(time.Minute)
		net.name("statsd", "10.0.0.3", "10.0.0.1")
		r.send(time.Minute)
		if n := len(net.servers[atA].attempts()); n != 1 {
			t.Errorf("%d sessions though the address is still among the answers", n)
		}
		net.name("statsd", "10.0.0.2")
		r.send(35 * time.Second)
		if len(net.servers[atB].lines()) == 0 {
			t.Error("not followed within 35 s")
		}
		net.name("statsd") // does not resolve any more: no reason to leave
		r.send(2 * time.Minute)
		if n := len(net.servers[atB].attempts()); n != 1 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A path at which another socket is, is followed.
func TestPathMoves(t *testing.T) {
	path := filepath.Join(t.TempDir(), "statsd.sock")
	bind := func() {
		if err := errors.Join(os.WriteFile(path+".new", nil, 0o600), os.Rename(path+".new", path)); err != nil {
			t.Fatal(err)
		}
	}
	bind()
	net := newNet(path)
	run(t, net, []string{"unixgram://" + path}, func(t *testing.T, r *rig) {
		r.send(3 * pathInterval)
		if n := len(net.servers[path].attempts()); n != 1 {
			t.Errorf("%d connections, want one that lasts", n)
		}
		bind()
		r.send(3 * time.Second)
		if n := len(net.servers[path].attempts()); n != 2 || len(net.servers[path].lines()) != r.sent {
			t.Errorf("%d connections, want 2; %d of %d lines", n, len(net.servers[path].lines()), r.sent)
		}
	})
}

// A name that does not resolve is down, and costs the next address nothing.
func TestUnresolved(t *testing.T) {
	net := newNet(atB)
	run(t, net, []string{"tcp://nobody:2003", "tcp://" + atB}, func(t *testing.T, r *rig) {
		r.send(time.Minute)
		if n := len(net.servers[atB].lines()); n != r.sent {
			t.Errorf("%d of %d lines", n, r.sent)
		}
		if n := r.logged("upstream down", "no such host"); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

// A peer that closes its side and reads on keeps its connection. One that hangs up
// so is found out, though nothing more is sent.
func TestHalfClose(t *testing.T) {
	net := newNet(atA)
	a := net.servers[atA]
	a.reads, a.endErr, a.hangUp = true, link.ErrClosed, 50*time.Millisecond
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.send(10 * time.Second)
		if n := len(a.attempts()); n != 1 || len(a.lines()) != r.sent {
			t.Errorf("%d connections, %d of %d lines", n, len(a.lines()), r.sent)
		}
	})
	net = newNet(atA)
	a = net.servers[atA]
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.send(time.Second)
		hungUp := time.Now()
		a.last().end(link.ErrClosed)
		sidebyside.Pass(2 * doubtTime)
		if n := len(a.attempts()); n != 2 {
			t.Errorf("%d connections, want another one", n)
		}
		if got := r.source.endings(); len(got) != 1 || got[0] != Broken {
			t.Errorf("it ended %v", got)
		}
		if r.source.ended != hungUp {
			t.Errorf("the source is told that it lived for %v more", r.source.ended.Sub(hungUp))
		}
		sidebyside.Pass(time.Minute)
		a.last().end(link.ErrClosed)
		synctest.Wait()
		if got := r.source.endings(); len(got) != 2 || got[1] != Closed {
			t.Errorf("an idle connection ended %v", got)
		}
		r.send(20 * time.Second)
		r.source.put("last")
		sidebyside.Pass(idleTime) // though that it was acknowledged is seen later than it is
		a.last().end(link.ErrClosed)
		synctest.Wait()
		if got := r.source.endings(); len(got) != 3 || got[2] != Closed {
			t.Errorf("a connection that was idle for a second ended %v", got)
		}
	})
}

// A server that worked and ends the connection is used again at once; one that was
// refused is tried less and less often, but every five seconds at least.
func TestRetries(t *testing.T) {
	net := newNet(atA)
	a := net.servers[atA]
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.send(10 * time.Second)
		a.last().end(errors.New("connection reset by peer"))
		r.send(100 * time.Millisecond)
		if n := len(a.attempts()); n != 2 {
			t.Errorf("%d connections", n)
		}
		if n := r.logged("level=WARN"); n != 0 {
			t.Errorf("%d warnings for a connection that was renewed at once", n)
		}
		a.set(func(s *fakeServer) { s.dialErr = errors.New("connection refused") })
		a.last().end(errors.New("connection reset by peer"))
		sidebyside.Pass(time.Hour)
		at := a.attempts()
		for i := 3; i < len(at); i++ {
			if gap := at[i].Sub(at[i-1]); gap < minRest/2 || gap > 5*time.Second {
				t.Fatalf("attempt %d after %v", i, gap)
			}
		}
		if len(at) > 3600/2 {
			t.Errorf("%d attempts in an hour", len(at))
		}
	})
}

// A server that can be connected to, and hangs up at the first line, interrupts the second
// less and less often.
func TestFirstHangsUpAtData(t *testing.T) {
	net := newNet(atA, atB)
	net.servers[atA].picky = true
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(30 * time.Minute)
		if n := len(net.servers[atA].attempts()); n < 4 || n > 9 {
			t.Errorf("%d attempts in half an hour", n)
		}
		if got := r.Status()[0].Reason; !strings.Contains(got, "closed by the server") {
			t.Errorf("it isn't used because of %q", got)
		}
		net.servers[atA].set(func(s *fakeServer) { s.picky = false })
		r.send(maxUDPRest + 5*time.Second)
		if s := r.Status(); !s[0].Up {
			t.Errorf("it works, and is not taken back: %+v", s)
		}
	})
}

// A server that takes nothing is not left for one that cannot be connected to.
func TestStalledBesideDead(t *testing.T) {
	net := newNet(atA, atB)
	net.servers[atA].unread = true
	net.servers[atB].dialErr = errors.New("connection refused")
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(5 * time.Minute)
		if n := net.servers[atA].sessions(); n != 1 {
			t.Errorf("%d sessions", n)
		}
		if got := r.Status()[0]; got.Up || !strings.Contains(got.Reason, "takes nothing") {
			t.Errorf("status %+v", got)
		}
		net.servers[atB].set(func(s *fakeServer) { s.dialErr = nil })
		r.send(time.Minute)
		if n := len(net.servers[atB].lines()); n == 0 {
			t.Error("the second is back, and has no line")
		}
	})
}

// That another server of a name is dead says nothing of the one in use, when that goes on.
func TestStalledBesideDeadOfOneName(t *testing.T) {
	net := newNet(atA, atB)
	net.name("graphite", "10.0.0.1", "10.0.0.2")
	net.servers[atB].dialErr = errors.New("connection refused")
	run(t, net, []string{"tcp://graphite:2003"}, func(t *testing.T, r *rig) {
		r.send(time.Minute)
		net.servers[atA].set(func(s *fakeServer) { s.unread = true })
		r.send(2 * stallTime)
		if got := r.Status()[0]; got.Up || !strings.Contains(got.Reason, "takes nothing") {
			t.Errorf("status %+v", got)
		}
		net.servers[atA].set(func(s *fakeServer) { s.unread = false })
		r.send(2 * time.Second)
		if got := r.Status()[0]; !got.Up || r.logged("upstream down") > 0 {
			t.Errorf("status %+v\n%s", got, r.log)
		}
	})
}

// What others add right behind the first line goes with it: one write for all.
func TestFollow(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // who is woken last has the next turn
	run(t, newNet(atA), toBoth[:1], func(t *testing.T, r *rig) {
		r.send(time.Second)
		r.follow.Store(true)
		const rounds = 200
		before := r.source.writes
		for range rounds {
			go r.source.put("behind")
			r.source.put("first")
			synctest.Wait()
		}
		if n := r.source.writes - before; n > rounds*5/4 { // each 61st time, the scheduler has another order
			t.Errorf("%d writes for %d times two lines", n, rounds)
		}
	})
}

// What a server that was left has not taken yet, it may still take while that may leave: it
// is not reset before.
func TestParked(t *testing.T) {
	for _, tt := range []struct {
		what string
		then func(a *fakeServer, left *atomic.Int64, stop func())
		want string
		took bool
	}{
		{"it takes all", func(a *fakeServer, _ *atomic.Int64, _ func()) { a.set(func(s *fakeServer) { s.unread = false }) }, "closed", true},
		{"it must not leave any more", func(_ *fakeServer, left *atomic.Int64, _ func()) { left.Store(0) }, "reset", false},
		{"we stop", func(_ *fakeServer, _ *atomic.Int64, stop func()) { stop() }, "reset", false},
		{"it never does", func(*fakeServer, *atomic.Int64, func()) { sidebyside.Pass(parkTime) }, "reset", false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			net := newNet(atA, atB)
			a := net.servers[atA]
			a.unread = true
			run(t, net, toBoth, func(t *testing.T, r *rig) {
				left := &atomic.Int64{}
				left.Store(int64(time.Hour))
				r.source.sendsOnce(func() time.Duration { return time.Duration(left.Load()) })
				r.send(25 * time.Second)
				if n := len(net.servers[atB].lines()); n == 0 {
					t.Fatal("the second has no line")
				}
				if got := a.parted(0); got != "" {
					t.Fatalf("the connection was %s while the server may take", got)
				}
				tt.then(a, left, r.stop)
				sidebyside.Pass(2 * parkLook)
				if got := a.parted(0); got != tt.want {
					t.Errorf("got %q, want it %s", got, tt.want)
				}
				if l := r.source.leaves[0]; !l.ended.Load() || l.acked.Load() > 0 != tt.took {
					t.Errorf("the source knows of %d bytes that were taken, and of the end: %v", l.acked.Load(), l.ended.Load())
				}
			})
		})
	}
}

// A server that was left in the middle of a line, and takes lines again, gets the rest: there is no
// telling what it would make of half of one.
func TestParkedInMidLine(t *testing.T) {
	net := newNet(atA, atB)
	a := net.servers[atA]
	a.half = true
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.source.sendsOnce(func() time.Duration { return time.Hour })
		r.send(25 * time.Second)
		if n := len(net.servers[atB].lines()); n == 0 {
			t.Fatal("the second has no line")
		}
		a.set(func(s *fakeServer) { s.stall = false })
		sidebyside.Pass(4 * parkLook)
		if got, tail, how := a.lines(), a.links[0].tail, a.parted(0); len(got) != 1 || got[0] != "n0" || len(tail) > 0 || how != "closed" {
			t.Errorf("it has %q and %q when the connection is %q", got, tail, how)
		}
	})
}

// One that has closed its side, too. The race detector sees whether the session goes on with
// what is looked at beside it now, in one of some hundred times.
func TestParkedHalfClosed(t *testing.T) {
	for range 300 {
		net := newNet(atA, atB)
		a := net.servers[atA]
		a.unread, a.endErr, a.hangUp = true, link.ErrClosed, time.Second
		run(t, net, toBoth, func(t *testing.T, r *rig) {
			r.source.sendsOnce(func() time.Duration { return time.Hour })
			r.send(4 * time.Second)
			if got := a.parted(0); got != "" {
				t.Errorf("the connection was %s while the server may take", got)
			}
		})
	}
}

// What must not leave any more does not, though the server has closed its side, and it is not known
// whether it reads on.
func TestRevokedWhileHalfClosed(t *testing.T) {
	net := newNet(atA)
	a := net.servers[atA]
	a.reads, a.unread = true, true
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.send(time.Second)
		a.last().end(link.ErrClosed)
		r.send(time.Second)
		r.source.mu.Lock()
		r.source.ackErr = ErrRevoked
		r.source.mu.Unlock()
		r.send(200 * time.Millisecond)
		if got := a.parted(0); got != "reset" {
			t.Errorf("it was %q, want a reset", got)
		}
		r.source.mu.Lock()
		r.source.ackErr = nil
		r.source.mu.Unlock()
	})
}

// What has left already needs no reset, though it was not known yet that it has.
func TestRevokedTooLate(t *testing.T) {
	net := newNet(atA)
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.source.mu.Lock()
		r.source.hasty = true
		r.source.mu.Unlock()
		r.send(time.Second)
		if n := len(net.servers[atA].attempts()); n != 1 {
			t.Errorf("%d connections, want 1", n)
		}
	})
}

// While a server is left that has not taken all, what must not leave any more does not.
func TestRevokedWhileLeaving(t *testing.T) {
	net := newNet(atA, atB)
	a := net.servers[atA]
	a.unread = true
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.source.sendsOnce(func() time.Duration { return 0 })
		r.send(time.Second)
		r.Configure(Config{To: addresses(t, toBoth[1])})
		sidebyside.Pass(partTime / 4)
		r.source.mu.Lock()
		r.source.ackErr = ErrRevoked
		r.source.mu.Unlock()
		sidebyside.Pass(partTime / 4)
		if got := a.parted(0); got != "reset" {
			t.Errorf("it was %q, want a reset", got)
		}
		r.source.mu.Lock()
		r.source.ackErr = nil
		r.source.mu.Unlock()
	})
}

// A connection that has reached its age ends when the server has taken what it was sent,
// however long that takes.
func TestMaxAgeWaits(t *testing.T) {
	net := newNet(atA)
	a := net.servers[atA]
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.Configure(Config{To: addresses(t, toBoth[0]), MaxAge: 30 * time.Second})
		r.send(29 * time.Second)
		a.set(func(s *fakeServer) { s.unread = true })
		first := len(a.attempts())
		r.send(time.Minute)
		if got, n := a.parted(first-1), len(a.attempts()); got != "" || n != first {
			t.Errorf("it was %q, and there are %d connections more", got, n-first)
		}
		a.set(func(s *fakeServer) { s.unread = false })
		r.source.doubts(time.Second)
		r.send(2 * time.Second)
		if n := len(a.attempts()); n != first {
			t.Error("it was ended while it is in doubt whether lines are delivered")
		}
		r.source.doubts(0)
		r.send(2 * time.Second)
		if got, n := a.parted(first-1), len(a.attempts()); got != "closed" || n != first+1 {
			t.Errorf("it was %q, and there are %d connections more", got, n-first)
		}
		if n := len(a.lines()); n != r.sent {
			t.Errorf("%d of %d lines", n, r.sent)
		}
	})
}

// A session that the source wants to be kept goes on for that long, and sends.
func TestMaxAgeIsPutOff(t *testing.T) {
	net := newNet(atA)
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.source.keeps(true)
		r.Configure(Config{To: addresses(t, toBoth[0]), MaxAge: 2 * time.Second})
		r.send(30 * time.Second)
		a := net.servers[atA]
		if n, got := a.sessions(), len(a.lines()); n > 2 || got != r.sent { // one was made before that
			t.Errorf("%d sessions, %d of %d lines", n, got, r.sent)
		}
		r.source.keeps(false)
		r.send(24 * time.Second)
		if n := a.sessions(); n < 2 {
			t.Errorf("%d sessions", n)
		}
	})
}

// A source that has ended keeps nobody waiting for a server that takes nothing.
func TestDrainedAndUnread(t *testing.T) {
	net := newNet(atA)
	net.servers[atA].unread = true
	synctest.Test(t, func(t *testing.T) {
		source := newSource()
		o := New(Config{To: addresses(t, toBoth[0])}, Options{Source: source, Log: discard, Dialer: net, Resolver: net})
		source.put("a")
		time.AfterFunc(time.Second, source.close)
		begun := time.Now()
		o.Run(t.Context())
		if took := time.Since(begun); took > finishTime+2*time.Second {
			t.Errorf("it took %v", took)
		}
		if got := net.servers[atA].parted(0); got != "reset" {
			t.Errorf("the connection was %q", got)
		}
	})
}

// What went by datagram is sent: also what was written just before other upstreams were configured.
func TestLeftDatagrams(t *testing.T) {
	run(t, newNet(atA, atB), []string{"udp://" + atA}, func(t *testing.T, r *rig) {
		r.send(10 * time.Second)
		r.source.put("last")
		synctest.Wait()
		r.Configure(Config{To: addresses(t, "udp://"+atB)})
		synctest.Wait()
		if got := r.source.endings(); !slices.Equal(got, []Ending{Finished}) || r.source.doubt != 0 {
			t.Errorf("sessions ended %v, %d bytes in doubt", got, r.source.doubt)
		}
	})
}

// A connection that was opened to look whether a server is back never ends that server: not
// by a reset, whenever we stop.
func TestProbeIsClosed(t *testing.T) {
	net := newNet(atA, atB)
	net.servers[atA].dialErr = errors.New("connection refused")
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(10 * time.Second)
		a := net.servers[atA]
		before := len(a.attempts())
		a.set(func(s *fakeServer) { s.dialErr = nil })
		for len(a.attempts()) == before {
			r.send(100 * time.Millisecond)
		}
		r.stop()
		synctest.Wait()
		if got := a.parted(before); got != "closed" {
			t.Errorf("the connection was %q", got)
		}
	})
}

// With max_age, a connection is renewed, which is no failure.
func TestMaxAge(t *testing.T) {
	net := newNet(atA)
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.Configure(Config{To: addresses(t, toBoth[0]), MaxAge: time.Minute})
		r.send(time.Second)
		before := len(net.servers[atA].attempts()) // two, where the first was made before that
		r.send(11 * time.Minute)                   // each lasts 63 to 66 s
		if n := len(net.servers[atA].attempts()) - before; n != 10 || len(net.servers[atA].lines()) != r.sent {
			t.Errorf("%d connections, %d of %d lines", n, len(net.servers[atA].lines()), r.sent)
		}
		if n := r.logged("level=WARN"); n != 0 {
			t.Errorf("%d warnings", n)
		}
	})
}

// Once a server had no room for a while, another connection to it is made when it has taken all:
// on this one, the next time might be its end. Where what a young session took is sent again, that
// waits until this one is older.
func TestServerHadNoRoom(t *testing.T) {
	for _, repeats := range []bool{false, true} {
		net := newNet(atA)
		a := net.servers[atA]
		run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
			if !repeats {
				r.source.sendsOnce(func() time.Duration { return time.Hour })
			}
			connects := func(want int, when string) {
				t.Helper()
				if n := len(a.attempts()); n != want {
					t.Errorf("%v: %d connections %s, want %d", repeats, n, when, want)
				}
			}
			r.send(time.Second)
			a.set(func(s *fakeServer) { s.full += fullTime / 2 }) // it was busy
			r.send(time.Second)
			a.set(func(s *fakeServer) { s.unread = true })
			r.send(time.Second)
			a.set(func(s *fakeServer) { s.full += fullTime })
			r.send(time.Second)
			connects(1, "before all was taken")
			a.set(func(s *fakeServer) { s.unread = false })
			r.send(10 * time.Second)
			if repeats {
				connects(1, "while the session is young")
				r.send(closedAge)
			}
			connects(2, "in the end")
			if got, n := a.parted(0), len(a.lines()); got != "closed" || n != r.sent {
				t.Errorf("%v: the first was %q; %d of %d lines", repeats, got, n, r.sent)
			}
		})
	}
}

// Other servers take over at once; without one, lines wait.
func TestConfigure(t *testing.T) {
	net := newNet(atA, atB)
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.send(time.Second)
		for _, to := range [][]string{{}, toBoth[1:]} {
			r.Configure(Config{To: addresses(t, to...)})
			r.send(time.Second)
		}
		if a, b := len(net.servers[atA].lines()), len(net.servers[atB].lines()); a == 0 || a+b != r.sent {
			t.Errorf("%d lines to the first, %d to the second, of %d", a, b, r.sent)
		}
	})
}

// A list that comes while the one before is searched is followed at once: no line goes to a
// server that is not in it.
func TestConfigureWhileSearching(t *testing.T) {
	const atC = "10.0.0.3:2003"
	net := newNet(atA, atB, atC)
	net.servers[atA].needs = never
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		r.send(nextAfter / 2)
		r.Configure(Config{To: addresses(t, "tcp://"+atC)})
		r.send(time.Second)
		if b, c := len(net.servers[atB].lines()), len(net.servers[atC].lines()); b > 0 || c != r.sent {
			t.Errorf("%d of %d lines came to a server that was configured before, %d to the one that is", b, r.sent, c)
		}
	})
}

// What was known of a server that is to be spoken with in another way is forgotten.
func TestConfigureTLS(t *testing.T) {
	net := newNet(atA, atB)
	a := net.servers[atA]
	a.dialErr = errors.New("the certificate is for another name")
	to := []string{"tls://" + atA, toBoth[1]}
	run(t, net, to, func(t *testing.T, r *rig) {
		r.send(10 * time.Minute)
		a.set(func(s *fakeServer) { s.dialErr = nil })
		r.Configure(Config{To: addresses(t, to...), TLS: link.TLS{ServerName: "graphite"}})
		r.send(time.Second)
		if s := r.Status(); !s[0].Up {
			t.Errorf("%+v", s)
		}
	})
}

// Run ends when the source is drained, with a session and without one.
func TestDrained(t *testing.T) {
	for _, down := range []error{nil, errors.New("connection refused")} {
		net := newNet(atA)
		net.servers[atA].dialErr = down
		synctest.Test(t, func(t *testing.T) {
			source := newSource()
			o := New(Config{To: addresses(t, toBoth[0])}, Options{Source: source, Log: discard, Dialer: net, Resolver: net})
			time.AfterFunc(time.Second, source.close)
			o.Run(t.Context())
		})
	}
}
