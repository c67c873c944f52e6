package outlet

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// What comes and goes is said once, and again after a while, with how often it did.
func TestFlapping(t *testing.T) {
	for name, c := range map[string]struct {
		to     []string
		set    func(a, b *fakeServer)
		flap   func(a *fakeServer) // twice a minute
		what   string
		before int // lines of the log in 9 minutes
	}{
		"pauses": {
			to:   toBoth[:1],
			flap: func(a *fakeServer) { a.set(func(s *fakeServer) { s.stall = !s.stall }) },
			what: "takes nothing", before: 3,
		},
		"refuses for a moment": {
			to: toBoth[:1],
			flap: func(a *fakeServer) {
				a.set(func(s *fakeServer) {
					if s.dialErr == nil {
						s.dialErr = syscall.ECONNREFUSED
					} else {
						s.dialErr = nil
					}
				})
				a.last().end(syscall.ECONNRESET)
			},
			what: "upstream down", before: 3,
		},
		"hangs up at data": {
			to:   toBoth,
			set:  func(a, _ *fakeServer) { a.picky = true },
			what: "upstream", before: 3,
		},
		"resets every six seconds": {
			to:   toBoth[:1],
			set:  func(a, _ *fakeServer) { a.hangUp, a.endErr = 6*time.Second, syscall.ECONNRESET },
			what: "one session after the other", before: 2,
		},
		"closes every half a minute, idle": {
			to:   toBoth[:1],
			flap: func(a *fakeServer) { sidebyside.Pass(2 * idleTime); a.last().end(link.ErrClosed); synctest.Wait() },
			what: "nothing", before: 1,
		},
	} {
		net := newNet(atA, atB)
		if c.set != nil {
			c.set(net.servers[atA], net.servers[atB])
		}
		run(t, net, c.to, func(t *testing.T, r *rig) {
			flap := func(n int) {
				for range n {
					r.send(30 * time.Second)
					if c.flap != nil {
						c.flap(net.servers[atA])
					}
				}
			}
			flap(18)
			if n := r.logged("upstream"); n != c.before {
				t.Errorf("%s: the log has %d lines in nine minutes:\n%s", name, n, r.log)
			}
			flap(6)
			if n := r.logged(c.what, "times="); c.what != "upstream" && c.what != "nothing" && n == 0 {
				t.Errorf("%s: not counted:\n%s", name, r.log)
			}
		})
	}
}

// What lasts is said, though the same was said a moment ago; and so is another cause.
func TestSaidAnew(t *testing.T) {
	net := newNet(atA)
	a := net.servers[atA]
	refused := func(port int) error { return fmt.Errorf("dial tcp 127.0.0.1:%d: %w", port, syscall.ECONNREFUSED) }
	run(t, net, toBoth[:1], func(t *testing.T, r *rig) {
		down := func(why error) {
			a.set(func(s *fakeServer) { s.dialErr = why })
			a.last().end(syscall.ECONNRESET)
		}
		want := func(downs, ups int) {
			t.Helper()
			if d, u := r.logged("upstream down"), r.logged("upstream up"); d != downs || u != ups {
				t.Errorf("said down %d times, up %d times, want %d, %d:\n%s", d, u, downs, ups, r.log)
			}
		}
		r.send(10 * time.Second)
		down(refused(40001))
		r.send(10 * time.Second)
		want(1, 1)
		a.set(func(s *fakeServer) { s.dialErr = refused(40002) })
		r.send(10 * time.Second)
		want(1, 1)
		a.set(func(s *fakeServer) { s.dialErr = errors.New("the certificate has expired") })
		r.send(10 * time.Second)
		want(2, 1)
		a.set(func(s *fakeServer) { s.dialErr = nil })
		r.send(15 * time.Second)
		want(2, 2)
		down(refused(40003))
		r.send(lasting / 2)
		want(2, 2)
		r.send(lasting)
		want(3, 2)
	})
}
