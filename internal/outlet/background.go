package outlet

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

const (
	// seekInterval is about how long an earlier address is left alone, if it does
	// not rest for longer.
	seekInterval = time.Second

	// betterAge is how long a connection to an earlier address must have stayed open
	// for it to be back.
	betterAge = 2 * time.Second

	// maxSpares is how many other servers are held at once.
	maxSpares = 8

	// passTime is what a balancer has to connect to its own server.
	passTime = time.Second

	// renameInterval is how often a name is resolved again whose lines go in datagrams; pathInterval,
	// how often a path is: the socket that was there may still be open, and nobody read from it.
	renameInterval = 30 * time.Second
	pathInterval   = 2 * time.Second

	// parkTime is for how long at most a server that was left has to take what it was
	// sent; parkLook, how often it is looked at.
	parkTime = 10 * time.Minute
	parkLook = 100 * time.Millisecond

	// healthInterval is how often a statsd that can be asked is; it is believed to
	// be ill at the second time.
	healthInterval = 2 * time.Second
)

// startBackground starts what goes on while s sends, and ends with ctx.
func (o *Outlet) startBackground(ctx context.Context, s *session) {
	a := s.server.entry.address
	hasOthers := !a.IsDatagram() && !o.failover.isAlone(s.server)
	s.background.Go(func() { o.scout(ctx, s, hasOthers) })
	if hasOthers && a.Host != "" {
		s.background.Go(func() { o.askWhetherRead(ctx, s) })
	}
	if a.Network == "unixgram" || a.Network == "udp" && a.IsName() {
		s.background.Go(func() { o.leaveRenamed(ctx, s) })
	}
	if a.Health != 0 {
		s.background.Go(func() { o.leaveIll(ctx, s) })
	}
}

// scout looks for another server, until it makes s leave its own for that: for any, while its own
// takes nothing, or seems to read nothing; else for one of an earlier address. It owns the spares.
func (o *Outlet) scout(ctx context.Context, s *session, hasOthers bool) {
	if hasOthers {
		o.holdSpares(ctx, s)
	} else {
		o.dropSpares()
	}
	earlier := slices.Index(s.config.To, s.server.entry.address)
	for {
		wait := time.Duration(math.MaxInt64)
		if earlier > 0 || len(o.spares) > 0 || s.paused.Load() || o.failover.of(s.server).silent {
			wait = seekInterval/2 + rand.N(seekInterval) // the same for no two of a fleet
		}
		select {
		case <-time.After(wait):
		case <-s.doubts:
		case <-ctx.Done():
			return
		}
		n, age, why := earlier, betterAge, error(errBetter)
		switch known := o.failover.of(s.server); {
		case s.paused.Load():
			n, age, why = wholeList, 0, errStalled
		case known.silent: // the end of s, in order, tells: it might serve one connection at a time
			n, age, why = wholeList, 0, errDoubted
		case known.works:
			o.dropSpares()
		}
		look, cancel := context.WithCancel(ctx)
		if why == errBetter {
			s.background.Go(func() { o.cancelAtDoubt(look, s, cancel) })
		}
		c := o.open(look, n, age)
		cancel()
		switch isStalled := errors.Is(why, errStalled); {
		case c == nil && isStalled:
			o.failover.alone()
		case c == nil:
		case isStalled && !s.paused.Load():
			c.close()
		default:
			o.dropSpares()
			o.spares = append(o.spares, c)
			s.ask(why)
			return
		}
	}
}

// cancelAtDoubt ends a look for an earlier server when the scout has a more urgent one, until ctx ends.
func (o *Outlet) cancelAtDoubt(ctx context.Context, s *session, cancel func()) {
	for {
		select {
		case <-s.doubts:
			if s.paused.Load() || o.failover.of(s.server).silent {
				cancel()
				s.doubt()
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// holdSpares connects to all other servers that can be used, once one has failed, and holds that
// until s has proven itself: so any number of servers that accept connections and end them cost the
// time of two. Those that were held when the session before failed are still.
func (o *Outlet) holdSpares(ctx context.Context, s *session) {
	hold, cancel := context.WithTimeout(ctx, provenAge)
	defer cancel()
	if retry.Sleep(ctx, settleTime) && len(o.spares) == 0 && o.failover.wantsSpares(s.server) {
		r := o.search(hold, wholeList)
		for ; len(o.spares) < maxSpares && r.next() != nil; r.found = nil {
			o.spares = append(o.spares, r.found)
		}
		r.stop()
	}
}

// spare returns the first of those that are held whose server has not ended it; nil: there is none.
func (o *Outlet) spare(ctx context.Context) *connection {
	for len(o.spares) > 0 {
		c := o.spares[0]
		o.spares = o.spares[1:]
		switch {
		case !o.stays(ctx, c, 0):
		case c.config == o.config.Load():
			return c
		default:
			c.close()
		}
	}
	return nil
}

func (o *Outlet) dropSpares() {
	for _, c := range o.spares {
		c.close()
	}
	o.spares = nil
}

// open connects to the first server of the first n addresses that can be used, and is not. Unless
// age is 0, a connection must stay open for that long while nothing is sent, and for longer than
// those did that failed; and a server that read nothing must first show that it reads again. nil:
// none can be used, or ctx ended.
func (o *Outlet) open(ctx context.Context, n int, age time.Duration) *connection {
	c := o.seek(ctx, n)
	if c == nil || c.server.entry.address.IsDatagram() {
		return c // it has rested for long, or says that it is well
	}
	known := o.failover.of(c.server)
	if age > 0 {
		age = max(age, known.lived+passTime)
	}
	if !o.stays(ctx, c, age) {
		return nil
	}
	c.probed = age > 0
	if !known.silent {
		return c
	}
	if reads := o.reads(ctx, c); reads {
		o.failover.asked(c.server, true, time.Now())
	} else if ctx.Err() == nil {
		o.failover.failed(time.Now(), c, 0, errStalled)
	}
	return nil
}

// stays says whether c stays open for d. If not, or if ctx has ended, it closes c.
func (o *Outlet) stays(ctx context.Context, c *connection, d time.Duration) bool {
	c.isEnded(ctx, d)
	select {
	case why := <-c.heard:
		c.close()
		o.failover.failed(time.Now(), c, 0, c.explain(why))
		return false
	default:
	}
	if ctx.Err() != nil {
		c.close()
	}
	return ctx.Err() == nil
}

// askWhetherRead asks now and then whether the server of s reads, on a connection of its own. That its
// kernel takes what it is sent doesn't tell, for megabytes: a quiet host's lines of hours.
func (o *Outlet) askWhetherRead(ctx context.Context, s *session) {
	for retry.Sleep(ctx, time.Until(o.failover.of(s.server).ask)) {
		c, err := o.dialServer(ctx, s.config, s.server, stallTime)
		reads := !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, link.ErrUnanswered)
		if err == nil {
			reads = o.reads(ctx, c)
		}
		if ctx.Err() == nil {
			o.failover.asked(s.server, reads, time.Now().Add(askInterval))
			s.doubt()
		}
	}
}

// reads closes c, and says whether the server closes it, too, as one does that reads. A balancer does
// so by itself as long as it connects to its own server.
func (o *Outlet) reads(ctx context.Context, c *connection) bool {
	defer c.close()
	retry.Sleep(ctx, passTime-time.Since(c.began))
	_, err := c.link.CloseWrite()
	return err != nil || c.isEnded(ctx, stallTime)
}

// park keeps a connection that was left, whose server has not taken what it was sent yet: to
// reset it could end the server. It is closed when the server has, and the rest of a line of which
// it had a part; and reset when that may not leave any more, or ctx ends.
func (o *Outlet) park(ctx context.Context, c *connection, s sent, l Leaving, rest []byte) {
	o.parked.Go(func() {
		defer l.End()
		for end := time.Now().Add(parkTime); ; retry.Sleep(ctx, min(s.within, parkLook)) {
			now := time.Now()
			s.within = min(l.Left(), end.Sub(now))
			if s.within <= 0 || ctx.Err() != nil {
				c.reset()
				return
			}
			err := s.look(now, c.link)
			if err == nil && len(rest) > 0 {
				var n int
				n, err = c.link.Write(rest, parkLook)
				s.took(now, rest[:n])
				rest = rest[n:]
			}
			if l.Ack(s.Acked); err != nil || s.isAcked() && len(rest) == 0 {
				c.close()
				return
			}
		}
	})
}

// leaveRenamed makes s leave its server when its name no longer resolves to that, or its path
// is another socket's.
func (o *Outlet) leaveRenamed(ctx context.Context, s *session) {
	a := s.server.entry.address
	was, _ := os.Stat(a.Path)
	interval := renameInterval
	if a.IsUnix() {
		interval = pathInterval
	}
	for retry.Sleep(ctx, interval) {
		if a.IsUnix() {
			if is, err := os.Stat(a.Path); err == nil && !os.SameFile(was, is) {
				s.ask(errRenamed)
			}
		} else if ats, err := o.lookUp(ctx, a); err == nil && !slices.Contains(ats, s.server.at) {
			s.ask(errRenamed)
		}
	}
}

// leaveIll makes s leave a server that can be asked, when it is ill.
func (o *Outlet) leaveIll(ctx context.Context, s *session) {
	for ill := 0; retry.Sleep(ctx, healthInterval); {
		err := link.AskHealth(ctx, s.server.entry.address, s.server.at)
		if ill++; err == nil {
			ill = 0
		}
		if ill == 2 {
			s.ask(err)
		}
	}
}
