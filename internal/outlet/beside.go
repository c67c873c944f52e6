package outlet

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"
)

const (
	// seekInterval is about how long an earlier address is left alone, if it does
	// not rest for longer.
	seekInterval = time.Second

	// betterAge is how long a connection to an earlier address must have stayed open
	// for it to be back.
	betterAge = 2 * time.Second

	// renameInterval is how often a name is resolved again whose lines go by UDP.
	renameInterval = 30 * time.Second

	// healthInterval is how often a statsd that can be asked is; it is believed to
	// be ill at the second time.
	healthInterval = 2 * time.Second
)

// beside starts what goes on beside the sending of s, and ends with ctx.
func (o *Outlet) beside(ctx context.Context, wg *sync.WaitGroup, s *session) {
	part := func(why error) {
		select {
		case s.leave.asked <- why:
		default:
		}
	}
	a := s.server.entry.address
	if s.index > 0 {
		wg.Go(func() {
			if o.better = o.seekBetter(ctx, s.index); o.better != nil {
				part(errBetter)
			}
		})
	}
	if _, err := netip.ParseAddr(a.Host); a.Network == "udp" && err != nil {
		wg.Go(func() {
			if o.isRenamed(ctx, s) {
				part(errRenamed)
			}
		})
	}
	if a.Health != 0 {
		wg.Go(func() {
			if err := o.falls(ctx, s); err != nil {
				select {
				case s.peer.heard <- err:
				default:
				}
			}
		})
	}
}

// seekBetter looks from time to time whether an address before the index-th is
// back, and returns a connection to it; nil when ctx ends.
func (o *Outlet) seekBetter(ctx context.Context, index int) *connection {
	for pause(ctx, seekInterval/2+rand.N(seekInterval)) == nil {
		if c := o.dialFirst(ctx, index); c != nil && o.lasts(ctx, c) {
			return c
		}
	}
	return nil
}

// lasts says whether a connection on which nothing is sent stays open. One that
// does not is closed.
func (o *Outlet) lasts(ctx context.Context, c *connection) bool {
	if c.server.entry.address.isDatagram() {
		return true // it has rested for long, or says that it is well
	}
	err := c.probe(ctx, betterAge)
	if err == nil && ctx.Err() == nil {
		return true
	}
	c.reset()
	if ctx.Err() == nil {
		o.failover.failed(time.Now(), c.server, 0, true, err)
	}
	return false
}

// isRenamed returns true when the name of a server no longer resolves to its
// address; false when ctx ends.
func (o *Outlet) isRenamed(ctx context.Context, s *session) bool {
	for pause(ctx, renameInterval) == nil {
		if ats, err := o.lookUp(ctx, s.server.entry.address); err == nil && !slices.Contains(ats, s.server.at) {
			return true
		}
	}
	return false
}

// falls returns an error when a server that can be asked is ill; nil when ctx ends.
func (o *Outlet) falls(ctx context.Context, s *session) (err error) {
	for ill := 0; pause(ctx, healthInterval) == nil; {
		if err = askHealth(ctx, s.server.entry.address, s.server.at); err == nil {
			ill = 0
		} else if ill++; ill == 2 {
			return s.named("ask", err)
		}
	}
	return nil
}
