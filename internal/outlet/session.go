package outlet

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

// Bounds of a session.
const (
	// writeTime bounds one write, so that what is acknowledged meanwhile gets known.
	writeTime = time.Second

	// settleTime is how long a server of which nothing good is known has to fail when it has
	// been sent a line; refuseTime, where those go in datagrams, and it has failed before: it
	// may be far away.
	settleTime = 100 * time.Millisecond
	refuseTime = time.Second

	// stallTime is how long a server may take nothing while another waits.
	stallTime = 5 * time.Second
)

var (
	errStalled = errors.New("the server reads nothing, and another one waits")
	errCutOff  = errors.New("the server's host answers nothing, and another one waits")
)

// A session sends on one connection.
//
//	sending ⇄ in doubt        the peer has closed its side; back, when it shows that it reads on
//	   │          │ shows nothing for 2 s, or resets
//	   │          └───────────────────────────────────────────────────→ Broken
//	   │ the peer closes, idle: Closed; an error: Broken
//	   │
//	   │ asked to, or too old
//	   ↓       a line is whole        all is acknowledged, and closed
//	leaving ──────────────────→ finish ─────────────────────────────→ Finished
//	   │ not within partTime      │ not in time
//	   └──────────────────────────┴────────────────────────────────→ Broken
//
// What is Broken is closed, if all is acknowledged; else it is reset, or, if it is not to come again,
// parked: it goes on beside the next session.
type session struct {
	*connection
	sent
	outlet *Outlet
	source Source
	since  time.Time // it is used

	trial  time.Duration // nothing good is known of the server: one line is enough to find out, within that
	paused atomic.Bool   // it has taken nothing for stallTime
	doubts chan struct{} // cap 1: it has begun to, or has stopped; or it may read nothing

	peer    hangup
	certain Peer        // what the source was told last
	timer   *time.Timer // listen's: it is called for each batch

	ask        context.CancelCauseFunc // says why we should leave; the first reason counts. Any goroutine may call it
	expires    time.Time               // when we should, once all is acknowledged; zero: never
	why        error                   // we do when we can; nil: we don't
	by         time.Time               // at the latest
	background sync.WaitGroup          // goroutines that end with the session
}

// session sends on c, which it takes, until that breaks or there is something better
// to do. It returns how long the server worked, and why the session ended.
func (o *Outlet) session(parent context.Context, c *connection) (lived time.Duration, why error) {
	now := time.Now()
	ctx, ask := context.WithCancelCause(parent)
	s := &session{
		connection: c, sent: newSent(now), outlet: o, source: o.options.Source, since: now,
		doubts: make(chan struct{}, 1), ask: ask, expires: c.expiry(), timer: time.NewTimer(0),
	}
	a := c.server.entry.address
	switch hasFailed := o.failover.begin(now, c.server); {
	case hasFailed && s.isDatagram():
		s.trial = refuseTime
	case hasFailed, !s.source.Repeats():
		s.trial = settleTime
	}
	s.source.Begin(now, Session{Upstream: a.String(), Certain: a.Network == "stdout"})

	o.startBackground(ctx, s)
	how, why := s.end(parent, s.reason(parent, s.send(ctx)))
	ended := time.Now()
	if s.isDoubtful() {
		ended = s.peer.at
	}
	s.source.End(ended, how)
	ask(nil)
	s.background.Wait()
	if isOurs(why) {
		return ended.Sub(now), why
	}
	return ended.Sub(now), c.explain(why)
}

// isDatagram says whether lines go in datagrams.
func (s *session) isDatagram() bool { return s.server.entry.address.IsDatagram() }

// send sends until the connection breaks, the source is drained, or there is
// something better to do, as ctx says; it returns what.
func (s *session) send(ctx context.Context) error {
	for {
		s.outlet.pulse.Work()
		now := time.Now()
		if err := s.peerEnded(now); err != nil {
			return err
		}
		if now.Sub(s.looked) >= lookEvery {
			if err := s.collect(now); err != nil {
				return err
			}
		}
		again, err := s.tell(now)
		if errors.Is(err, ErrRevoked) { // unless it has left since the last look
			if err = s.collect(now); err == nil {
				again, err = s.tell(now)
			}
		}
		if err != nil {
			return err
		}
		s.noteStall(now)
		if s.isLeaving(ctx, now, again > 0) {
			return s.why
		}
		lines, wait, err := s.source.Next(now)
		switch {
		case err != nil:
			return err
		case s.why != nil && (!s.mid || len(lines) == 0):
			s.await(ctx, firstLook)
		case len(lines) > 0:
			err = s.write(ctx, now, lines, wait)
		default:
			s.await(ctx, s.nextLook(now, wait, again))
		}
		if err != nil {
			return err
		}
	}
}

// write writes from lines. Where we leave, only the rest of a line.
func (s *session) write(ctx context.Context, now time.Time, lines []byte, within time.Duration) error {
	limit := writeTime
	if within > 0 {
		limit, s.within = min(limit, within), min(s.within, within)
	}
	if s.why != nil || s.trial > 0 {
		lines = lines[:bytes.IndexByte(lines, '\n')+1]
	}
	if s.server.entry.address.Network == "stdout" {
		s.outlet.pulse.Rest() // who reads it may stop
	}
	s.link.Narrow(s.source.HasBacklog(now))
	n, err := s.link.Write(lines, limit)
	if s.trial > 0 && n > 0 {
		s.settle(ctx, s.trial)
		s.trial = 0
		if err = s.collect(time.Now()); err != nil && s.isDatagram() {
			n = 0 // nobody has it: it is sent again
		}
	}
	if s.took(now, lines[:n]); n > 0 {
		s.source.Wrote(now, n)
	}
	if errors.Is(err, link.ErrTooLong) {
		s.source.Refuse(link.PacketEnd(lines[n:], s.config.MaxDatagram))
		return nil
	}
	return err
}

// collect asks what is acknowledged.
func (s *session) collect(now time.Time) error {
	err := s.look(now, s.link)
	if s.worn && (s.expires.IsZero() || now.Before(s.expires)) && (!s.source.Repeats() || now.Sub(s.since) >= closedAge) {
		s.expires = now // nothing is sent again then: what a younger session took could be
	}
	if !s.proven && now.Sub(s.since) >= provenAge && !s.isDoubtful() && s.stands(now) < provenAge/2 {
		s.proven = true
		s.outlet.failover.proven(now, s.server)
	}
	return err
}

// tell tells the source what is acknowledged; while that is in doubt, what was before.
func (s *session) tell(now time.Time) (again time.Duration, err error) {
	isDoubtful := s.isDoubtful()
	if isDoubtful {
		now = s.peer.at
	} else {
		s.certain = s.Peer
	}
	due, err := s.source.Ack(now, s.certain)
	if s.within = link.AskTime; due.Leave > 0 {
		s.within = due.Leave
	}
	if until := now.Add(due.Keep); !s.expires.IsZero() && s.expires.Before(until) {
		s.expires = until
	}
	if isDoubtful {
		due.Again = soonest(due.Again, doubtTime)
	}
	return due.Again, err
}

// noteStall records whether the server takes nothing. It is left when another can be connected
// to; until then it is waited for, but it isn't up.
func (s *session) noteStall(now time.Time) {
	paused, since := s.stands(now) >= stallTime, time.Time{}
	if s.paused.Swap(paused) == paused {
		return
	}
	if paused {
		since = s.progress
	}
	s.outlet.failover.pauses(since, s.isCutOff(now))
	s.doubt()
}

// doubt wakes the scout: another server may be needed.
func (s *session) doubt() {
	select {
	case s.doubts <- struct{}{}:
	default:
	}
}

// isCutOff says whether a server that takes nothing has a host that answers nothing, either.
func (s *session) isCutOff(now time.Time) bool {
	return s.Silence > 0 && s.Silence+now.Sub(s.looked) >= stallTime
}

// nextLook returns for how long nothing needs to be done unless something happens; 0: for
// ever. wait and again are what the source asked for.
func (s *session) nextLook(now time.Time, wait, again time.Duration) time.Duration {
	next := soonest(wait, again)
	if !s.isAcked() {
		next = soonest(next, s.lookAgain())
	}
	if age := now.Sub(s.since); !s.proven && age < provenAge {
		next = soonest(next, provenAge-age)
	}
	if !s.expires.IsZero() {
		next = soonest(next, max(time.Millisecond, s.expires.Sub(now)))
	}
	return next
}

// soonest returns the shorter of two waits, of which 0 is none.
func soonest(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// await returns after d, unless that is 0, or when something happens.
func (s *session) await(ctx context.Context, d time.Duration) {
	asked := ctx.Done()
	if s.why != nil {
		asked = nil // that is known
	}
	s.listen(d, asked, s.source.More(), s.outlet.changed)
}

// settle gives the peer time to end the connection.
func (s *session) settle(ctx context.Context, d time.Duration) { s.listen(d, ctx.Done(), nil, nil) }

// listen returns after d, unless that is 0, when the peer ends the connection, or with a channel.
func (s *session) listen(d time.Duration, done, more, changed <-chan struct{}) {
	var late <-chan time.Time
	if d > 0 {
		s.timer.Reset(d)
		late = s.timer.C
	}
	s.outlet.pulse.Rest()
	defer s.outlet.pulse.Work()
	select {
	case s.peer.err = <-s.heard:
	case <-late:
	case <-done:
	case <-more:
		if s.outlet.options.Follow() {
			runtime.Gosched() // they go first
		}
	case <-changed:
	}
}
