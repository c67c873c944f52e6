package outlet

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

const (
	// seekInterval is about how long an earlier address is left alone, if it does
	// not rest for longer.
	seekInterval = time.Second

	// betterAge is how long a connection to an earlier address must have stayed open
	// for it to be back.
	betterAge = 2 * time.Second

	// passTime is what a balancer has to connect to its own server.
	passTime = time.Second

	// renameInterval is how often a name or path is resolved again whose lines go in datagrams.
	renameInterval = 30 * time.Second

	// parkTime is for how long at most a server that was left has to take what it was
	// sent; parkLook, how often it is looked at.
	parkTime = 10 * time.Minute
	parkLook = 100 * time.Millisecond

	// healthInterval is how often a statsd that can be asked is; it is believed to
	// be ill at the second time.
	healthInterval = 2 * time.Second
)

// beside starts what goes on beside the sending of s, and ends with ctx.
func (o *Outlet) beside(ctx context.Context, s *session) {
	a := s.server.entry.address
	if s.index > 0 {
		s.besides.Go(func() {
			if c := o.seekBetter(ctx, s.index); c != nil && !s.leave.ask(departure{errBetter, c}) {
				c.close()
			}
		})
	}
	if a.Network == "unixgram" || a.Network == "udp" && a.IsName() {
		s.besides.Go(func() {
			if o.isRenamed(ctx, s) {
				s.leave.ask(departure{why: errRenamed})
			}
		})
	}
	if a.Health != 0 {
		s.besides.Go(func() {
			if err := o.falls(ctx, s); err != nil {
				s.hear(err)
			}
		})
	}
}

// seekBetter looks from time to time whether an address before the index-th is
// back, and returns a connection to it; nil when ctx ends.
func (o *Outlet) seekBetter(ctx context.Context, index int) *connection {
	for retry.Sleep(ctx, seekInterval/2+rand.N(seekInterval)) {
		if c := o.seek(ctx, index, nil); c != nil && o.lasts(ctx, c) {
			return c
		}
	}
	return nil
}

// lasts says whether a connection on which nothing is sent stays open. One that
// does not is closed.
func (o *Outlet) lasts(ctx context.Context, c *connection) bool {
	if c.server.entry.address.IsDatagram() {
		return true // it has rested for long, or says that it is well
	}
	late := time.NewTimer(betterAge)
	defer late.Stop()
	select {
	case <-late.C:
		if c.probed = true; !o.failover.isSilent(c.server) {
			return true
		}
		o.prove(ctx, c)
	case err := <-c.heard:
		c.close()
		o.failover.failed(time.Now(), c.server, 0, false, c.explain(err))
	case <-ctx.Done():
		c.close()
	}
	return false
}

// leaveStalled makes s leave its server for another while it takes nothing, as soon as
// one could be connected to.
func (o *Outlet) leaveStalled(ctx context.Context, s *session) {
	for s.paused.Load() {
		if c := o.another(ctx, s.server); c != nil {
			if !s.paused.Load() || !s.leave.ask(departure{errStalled, c}) {
				c.close()
			}
			return
		}
		o.failover.alone(s.server)
		if !retry.Sleep(ctx, seekInterval/2+rand.N(seekInterval)) {
			return
		}
	}
}

// leaveSilent makes s leave its server for another if that reads nothing. That its kernel takes
// what it is sent doesn't tell, for megabytes: a quiet host's lines of hours. One that reads
// closes what we close. If it does not, the session ends in order, which tells: it might
// serve one connection at a time.
func (o *Outlet) leaveSilent(ctx context.Context, s *session) {
	defer s.asking.Store(false)
	c, err := o.dialServer(ctx, s.config, s.server, s.index, stallTime)
	reads := err == nil && o.reads(ctx, c) || err != nil && !errors.Is(err, context.DeadlineExceeded)
	if ctx.Err() != nil {
		return
	}
	if o.failover.asked(s.server, reads, time.Now().Add(askInterval)); reads {
		return
	}
	if c := o.another(ctx, s.server); c != nil && !s.leave.ask(departure{errDoubted, c}) {
		c.close()
	}
}

// another connects to another server than one. nil: none can be used.
func (o *Outlet) another(ctx context.Context, than *server) *connection {
	c := o.seek(ctx, wholeList, than)
	if c != nil && o.failover.isSilent(c.server) {
		o.prove(ctx, c)
		return nil
	}
	return c
}

// prove finds out whether a server that was silent reads again, on c, which it takes.
func (o *Outlet) prove(ctx context.Context, c *connection) {
	switch reads := o.reads(ctx, c); {
	case ctx.Err() != nil:
	case reads:
		o.failover.asked(c.server, true, time.Now().Add(askInterval))
	default:
		o.failover.failed(time.Now(), c.server, 0, true, errStalled)
	}
}

// reads closes c, and says whether the server closes it, too. A balancer does so by itself as
// long as it connects to its own server.
func (o *Outlet) reads(ctx context.Context, c *connection) bool {
	defer c.close()
	if d := passTime - time.Since(c.began); d > 0 {
		retry.Sleep(ctx, d)
	}
	if _, err := c.closeWrite(); err != nil {
		return true // it has ended it
	}
	late := time.NewTimer(stallTime)
	defer late.Stop()
	select {
	case <-late.C:
		return false
	case <-c.heard:
	case <-ctx.Done():
	}
	return true
}

// park keeps the connection of a session that has ended, whose server has not taken what it
// was sent yet: to reset it could end the server. It is closed when the server has, and
// reset when that may not leave any more, or ctx ends.
func (o *Outlet) park(ctx context.Context, s *session, left func() time.Duration) {
	o.parked.Go(func() {
		for end := time.Now().Add(parkTime); ; {
			now := time.Now()
			rest := min(left(), end.Sub(now))
			if rest <= 0 || ctx.Err() != nil {
				s.reset()
				return
			}
			if peer, err := s.look(now, rest); err != nil || peer.Acked == s.written {
				s.close()
				return
			}
			retry.Sleep(ctx, min(rest, parkLook))
		}
	})
}

// isRenamed returns true when the name of a server no longer resolves to its address, or its
// path is another socket's; false when ctx ends.
func (o *Outlet) isRenamed(ctx context.Context, s *session) bool {
	a := s.server.entry.address
	was, _ := os.Stat(a.Path)
	for retry.Sleep(ctx, renameInterval) {
		if a.IsUnix() {
			if is, err := os.Stat(a.Path); err == nil && !os.SameFile(was, is) {
				return true
			}
		} else if ats, err := o.lookUp(ctx, a); err == nil && !slices.Contains(ats, s.server.at) {
			return true
		}
	}
	return false
}

// falls returns an error when a server that can be asked is ill; nil when ctx ends.
func (o *Outlet) falls(ctx context.Context, s *session) (err error) {
	for ill := 0; retry.Sleep(ctx, healthInterval); {
		if err = askHealth(ctx, s.server.entry.address, s.server.at); err == nil {
			ill = 0
		} else if ill++; ill == 2 {
			return s.named("ask", err)
		}
	}
	return nil
}
