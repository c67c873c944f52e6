package outlet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// Another server than the one in use: of the same name or of another address, in the
// order of the list, and only one that takes a connection.
func TestSeek(t *testing.T) {
	const atC = "10.0.0.3:2003"
	net := newNet(atA, atB, atC)
	net.name("graphite", "10.0.0.1", "10.0.0.2")
	synctest.Test(t, func(t *testing.T) {
		o := New(Config{To: addresses(t, "tcp://graphite:2003", "tcp://"+atC)}, Options{Source: newSource(), Log: discard, Dialer: net, Resolver: net})
		first := o.seek(t.Context(), 1)
		defer first.close()
		o.failover.begin(time.Now(), first.server)
		seek := func(want string) {
			t.Helper()
			got := ""
			if c := o.seek(t.Context(), wholeList); c != nil {
				got = c.server.at
				c.close()
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		seek(atB)
		net.servers[atB].dialErr = errors.New("connection refused")
		seek(atC)
		net.servers[atB].dialErr = nil
		seek(atC) // the second rests
		sidebyside.Pass(time.Minute)
		seek(atB)
		net.servers[atB].dialErr, net.servers[atC].needs = errors.New("connection refused"), never
		seek("")
		if n := len(net.servers[atA].attempts()); n != 1 {
			t.Errorf("%d attempts at the server in use", n)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if o.seek(ended, wholeList) != nil {
			t.Error("a connection though ctx has ended")
		}
	})
}

const never = 1000 * time.Hour

// A name whose first server is silent is known after 5 s, or as much for each domain that is
// searched, and used then. A good second is used meanwhile.
func TestSlowName(t *testing.T) {
	net := newNet(atA, atB)
	net.name("graphite", "10.0.0.1")
	for _, net.needs = range []time.Duration{25 * time.Second, 5 * time.Second} {
		net.servers[atA].set(func(s *fakeServer) { s.got = nil })
		run(t, net, []string{"tcp://graphite:2003"}, func(t *testing.T, r *rig) {
			r.send(net.needs + time.Second)
			if n := len(net.servers[atA].lines()); n != r.sent {
				t.Errorf("%d of %d lines", n, r.sent)
			}
		})
	}
	net.servers[atA].set(func(s *fakeServer) { s.got = nil })
	run(t, net, []string{"tcp://graphite:2003", "tcp://" + atB}, func(t *testing.T, r *rig) {
		r.send(resolveTime + time.Second)
		if n := len(net.servers[atB].lines()); n != r.sent {
			t.Errorf("%d of %d lines came to the second", n, r.sent)
		}
		if got := r.Status()[0].Reason; !strings.Contains(got, "look up") {
			t.Errorf("the first isn't used because of %q", got)
		}
		if n := r.logged("upstream down", "look up"); n != 1 {
			t.Errorf("that is said %d times", n)
		}
		r.send(20 * time.Second)
		if !r.Status()[0].Up {
			t.Errorf("the first is not in use: %+v", r.Status())
		}
	})
}

// A name server that never answers a question for IPv6 addresses delays a name, and no more;
// and a second in the list is not used because of it.
func TestOnlyIPv4(t *testing.T) {
	net := newNet(atA, atB)
	net.name("graphite", "10.0.0.1")
	net.only4 = true
	run(t, net, []string{"tcp://graphite:2003", "tcp://" + atB}, func(t *testing.T, r *rig) {
		r.send(resolveTime)
		if n := len(net.servers[atA].lines()); n != r.sent {
			t.Errorf("%d of %d lines came within %v", n, r.sent, resolveTime)
		}
	})
}

// A name that has another address each time, none of which works, is tried less and less
// often, and what is wrong is said once.
func TestNameRotates(t *testing.T) {
	for _, many := range []int{2, 200} {
		for _, dialErr := range []error{nil, errors.New("connection refused")} {
			net := newNet()
			net.rotates = true
			var ips []string
			for i := range many {
				ips = append(ips, fmt.Sprintf("10.0.1.%d", i))
				net.servers[ips[i]+":2003"] = &fakeServer{dialErr: dialErr, endErr: link.ErrClosed}
			}
			net.name("graphite", ips...)
			run(t, net, []string{"tcp://graphite:2003"}, func(t *testing.T, r *rig) {
				r.send(time.Minute)
				n := 0
				for _, s := range net.servers {
					n += len(s.attempts())
				}
				if n > 30 || n < 10 {
					t.Errorf("%d addresses: %d attempts in a minute", many, n)
				}
				if n := strings.Count(r.log.String(), "\n"); n > 3 {
					t.Errorf("%d addresses: the log has %d lines:\n%s", many, n, r.log)
				}
				known := len(r.failover.entries[0].servers)
				if known > maxKnown {
					t.Errorf("%d servers are remembered", known)
				}
				at := net.servers[ips[0]+":2003"]
				at.set(func(s *fakeServer) { s.dialErr, s.endErr = nil, nil })
				if r.send(20 * time.Second); many == 2 && !r.IsUp() {
					t.Errorf("one works: %+v", r.Status())
				}
			})
		}
	}
}

// While all servers of a name rest, it is looked up now and then.
func TestLookUpsRest(t *testing.T) {
	net := newNet(atA, atB)
	net.name("graphite", "10.0.0.1")
	net.servers[atA].endErr = errors.New("connection refused")
	run(t, net, []string{"udp://graphite:2003", "udp://" + atB}, func(t *testing.T, r *rig) {
		r.send(5 * time.Minute)
		if n := net.asked(); n > 20 {
			t.Errorf("%d questions in five minutes", n)
		}
	})
}

// Nor is the name of a server that pauses looked up again and again; but where it moves is found.
func TestLookUpsRestWhilePaused(t *testing.T) {
	net := newNet(atA, atB)
	net.name("graphite", "10.0.0.1")
	net.servers[atA].stall = true
	run(t, net, []string{"tcp://graphite:2003"}, func(t *testing.T, r *rig) {
		r.send(5 * time.Minute)
		if n := net.asked(); n > 20 {
			t.Errorf("%d questions in five minutes", n)
		}
		net.name("graphite", "10.0.0.2")
		r.send(maxRest + 5*time.Second)
		if n := len(net.servers[atB].lines()); n == 0 {
			t.Error("where the name is now, no line has come")
		}
	})
}

// A server that needs long to connect is waited for, whatever else is in the list; one
// that never answers holds up no other.
func TestSlowConnect(t *testing.T) {
	refused := syscall.ECONNREFUSED
	for _, c := range []struct {
		to     []string
		needs  time.Duration
		within time.Duration
	}{
		{toBoth[:1], 2500 * time.Millisecond, 3 * time.Second},
		{toBoth[:1], 9 * time.Second, time.Minute},
		{toBoth, 1500 * time.Millisecond, 2 * time.Second},
		{toBoth, 9 * time.Second, time.Minute},
		{[]string{toBoth[1], toBoth[0]}, 9 * time.Second, time.Minute},
	} {
		net := newNet(atA, atB)
		net.servers[atA].needs, net.servers[atB].dialErr = c.needs, refused
		run(t, net, c.to, func(t *testing.T, r *rig) {
			if r.send(c.within); len(net.servers[atA].lines()) != r.sent {
				t.Errorf("%v in %v: %d of %d lines after %v", c.needs, c.to, len(net.servers[atA].lines()), r.sent, c.within)
			}
		})
	}
	net := newNet(atA, atB)
	net.servers[atA].needs, net.servers[atB].dialErr = never, refused
	run(t, net, toBoth, func(t *testing.T, r *rig) {
		for range 20 {
			r.send(42 * time.Second)
			net.servers[atB].set(func(s *fakeServer) { s.dialErr = nil })
			if r.send(maxRetry + nextAfter); r.Status()[1].Resolved == "" {
				t.Errorf("the second works: %+v", r.Status())
			}
			if got := r.Status()[0].Reason; !strings.Contains(got, "no connection") && !strings.Contains(got, "timeout") {
				t.Errorf("the first isn't used because of %q", got)
			}
			r.send(provenAge) // of one whose session fails sooner, another is waited for
			net.servers[atB].set(func(s *fakeServer) { s.dialErr = refused })
			net.servers[atB].last().end(errors.New("connection reset by peer"))
		}
	})
}

// Run ends soon, whatever is under way.
func TestStopSearching(t *testing.T) {
	net := newNet(atA)
	net.servers[atA].needs = never
	net.name("nobody")
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		r.send(time.Second)
		before := time.Now()
		r.source.mu.Lock()
		r.source.lines = nil
		r.source.mu.Unlock()
		r.source.close()
		<-r.ended
		if took := time.Since(before); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}

// While no name server answers, a session that ends is followed by one with an address of before; what
// is no name any more is left alone, and one that moved is followed once that can be known.
func TestNoNameServer(t *testing.T) {
	for _, maxAge := range []time.Duration{time.Minute, 0} {
		net := newNet(atA, atB)
		a, b := net.servers[atA], net.servers[atB]
		net.name("graphite", "10.0.0.1")
		run(t, net, []string{"tcp://graphite:2003"}, func(t *testing.T, r *rig) {
			r.Configure(Config{To: addresses(t, "tcp://graphite:2003"), MaxAge: maxAge})
			r.send(10 * time.Second)
			silence := func(is bool) { net.mu.Lock(); net.silent = is; net.mu.Unlock() }
			silence(true)
			for range 3 {
				if maxAge == 0 {
					a.last().end(errors.New("connection reset by peer"))
				}
				r.send(100 * time.Second)
				if n := len(a.lines()); n < r.sent-5 {
					t.Errorf("%v: %d of %d lines have arrived", maxAge, n, r.sent)
				}
			}
			silence(false)
			net.name("graphite")
			a.last().end(errors.New("connection reset by peer"))
			r.send(time.Minute)
			if s := r.Status()[0]; s.Up || !strings.Contains(s.Reason, "no such host") {
				t.Errorf("%v: not a name any more: %+v", maxAge, s)
			}
			net.name("graphite", "10.0.0.2")
			r.send(10 * time.Second)
			if n := len(a.lines()) + len(b.lines()); n != r.sent {
				t.Errorf("%v: %d of %d lines have arrived", maxAge, n, r.sent)
			}
		})
	}
}
