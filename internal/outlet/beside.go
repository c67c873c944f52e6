package outlet

import (
	"context"
	"errors"
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
	if earlier := slices.Index(s.config.To, a); earlier > 0 {
		s.besides.Go(func() { o.leaveForEarlier(ctx, s, earlier) })
	}
	if isAlone := o.failover.isAlone(s.server); isAlone || a.IsDatagram() {
		o.dropSpares()
	} else {
		s.besides.Go(func() { o.holdSpares(ctx, s) })
		if a.Host != "" {
			s.besides.Go(func() { o.leaveUnread(ctx, s) })
		}
	}
	if a.Network == "unixgram" || a.Network == "udp" && a.IsName() {
		s.besides.Go(func() { o.leaveRenamed(ctx, s) })
	}
	if a.Health != 0 {
		s.besides.Go(func() { o.leaveIll(ctx, s) })
	}
}

// seekAgain waits for about seekInterval; it returns false when ctx has ended.
func seekAgain(ctx context.Context) bool {
	return retry.Sleep(ctx, seekInterval/2+rand.N(seekInterval))
}

// holdSpares connects to all other servers that can be used, once one has failed, and holds that
// until s has proven itself: so any number of servers that accept connections and end them cost the
// time of two. Those that were held when the session before failed are still.
func (o *Outlet) holdSpares(ctx context.Context, s *session) {
	if !retry.Sleep(ctx, settleTime) {
		return
	}
	if len(o.spares) == 0 && o.failover.wantsSpares(s.server) {
		r := o.search(ctx, wholeList, s.server)
		r.quiet = true
		for ; len(o.spares) < maxSpares && r.next() != nil; r.found = nil {
			o.spares = append(o.spares, r.found)
		}
		r.stop()
	}
	if retry.Sleep(ctx, provenAge) {
		o.dropSpares()
	}
}

// spare returns the first of those that are held whose server has not ended it; nil: there is none.
func (o *Outlet) spare() *connection {
	for len(o.spares) > 0 {
		c := o.spares[0]
		o.spares = o.spares[1:]
		select {
		case why := <-c.heard:
			c.close()
			o.failover.failed(time.Now(), c, 0, c.explain(why))
		default:
			return c
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

// leaveForEarlier makes s leave its server when one of the first n addresses is back.
func (o *Outlet) leaveForEarlier(ctx context.Context, s *session, n int) {
	for seekAgain(ctx) {
		if c := o.open(ctx, n, nil, betterAge); c != nil {
			s.leaveFor(c, errBetter)
			return
		}
	}
}

// leaveStalled makes s leave its server for another while it takes nothing, as soon as
// one could be connected to.
func (o *Outlet) leaveStalled(ctx context.Context, s *session) {
	for s.paused.Load() {
		c := o.open(ctx, wholeList, s.server, 0)
		switch {
		case c == nil:
			o.failover.alone(s.server)
		case s.paused.Load():
			s.leaveFor(c, errStalled)
			return
		default:
			c.close()
		}
		if !seekAgain(ctx) {
			return
		}
	}
}

// leaveUnread makes s leave its server for another if that reads nothing. That its kernel takes
// what it is sent doesn't tell, for megabytes: a quiet host's lines of hours. One that reads
// closes what we close. If it does not, the session ends in order, which tells: it might
// serve one connection at a time.
func (o *Outlet) leaveUnread(ctx context.Context, s *session) {
	for wait := max(askAfter, time.Until(o.failover.of(s.server).ask)); retry.Sleep(ctx, wait); wait = askInterval {
		if s.paused.Load() {
			continue // which tells, too
		}
		c, err := o.dialServer(ctx, s.config, s.server, stallTime)
		if err == nil && o.reads(ctx, c) || err != nil && !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			continue
		}
		o.failover.asked(s.server, false, time.Now().Add(askInterval))
		if c := o.open(ctx, wholeList, s.server, 0); c != nil {
			s.leaveFor(c, errDoubted)
		}
	}
}

// open connects to the first server of the first n addresses that can be used; than is passed
// over. Unless age is 0, a connection must stay open for that long while nothing is sent, and for
// longer than those did that failed; and a server that read nothing must first show that it
// reads again. nil: none can be used, or ctx ended.
func (o *Outlet) open(ctx context.Context, n int, than *server, age time.Duration) *connection {
	c := o.seek(ctx, n, than)
	if c == nil || c.server.entry.address.IsDatagram() {
		return c // it has rested for long, or says that it is well
	}
	if age > 0 {
		age = max(age, o.failover.of(c.server).lived+passTime)
	}
	late := time.NewTimer(age)
	defer late.Stop()
	select {
	case <-late.C:
	case err := <-c.heard:
		c.close()
		o.failover.failed(time.Now(), c, 0, c.explain(err))
		return nil
	case <-ctx.Done():
		c.close()
		return nil
	}
	c.probed = age > 0
	if !o.failover.of(c.server).silent {
		return c
	}
	if !o.reads(ctx, c) && ctx.Err() == nil {
		o.failover.failed(time.Now(), c, 0, errStalled)
	}
	return nil
}

// reads closes c, and says whether the server closes it, too. A balancer does so by itself as
// long as it connects to its own server.
func (o *Outlet) reads(ctx context.Context, c *connection) (reads bool) {
	defer c.close()
	defer func() {
		if reads {
			o.failover.asked(c.server, true, time.Now().Add(askInterval))
		}
	}()
	if d := passTime - time.Since(c.began); d > 0 && !retry.Sleep(ctx, d) {
		return false
	}
	if _, err := c.link.CloseWrite(); err != nil {
		return true // it has ended it
	}
	late := time.NewTimer(stallTime)
	defer late.Stop()
	select {
	case <-c.heard:
		return true
	case <-late.C:
	case <-ctx.Done():
	}
	return false
}

// park keeps a connection that was left, whose server has not taken what it was sent yet: to
// reset it could end the server. It is closed when the server has, and the rest of a line of which
// it had a part; and reset when that may not leave any more, or ctx ends.
func (o *Outlet) park(ctx context.Context, c *connection, s sent, rest []byte, left func() time.Duration) {
	o.parked.Go(func() {
		for end := time.Now().Add(parkTime); ; {
			now := time.Now()
			s.within = min(left(), end.Sub(now))
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
			if err != nil || s.isAcked() && len(rest) == 0 {
				c.close()
				return
			}
			retry.Sleep(ctx, min(s.within, parkLook))
		}
	})
}

// leaveRenamed makes s leave its server when its name no longer resolves to that, or its path
// is another socket's.
func (o *Outlet) leaveRenamed(ctx context.Context, s *session) {
	a := s.server.entry.address
	was, _ := os.Stat(a.Path)
	for retry.Sleep(ctx, renameInterval) {
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
			s.ask(s.named("ask", err))
		}
	}
}
