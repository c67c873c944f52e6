package outlet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Bounds of a session.
const (
	// writeTime bounds one write, so that what is acknowledged meanwhile gets known.
	writeTime = time.Second

	// answerTime is within what time the kernel asks a peer again that has no room.
	answerTime = 10 * time.Second

	// lateErrors is how long after a datagram the network may report that its host
	// can't be reached: three seconds, where no one answers for the address.
	lateErrors = 5 * time.Second

	// settleTime is how long a server that has failed has to do so again, before it
	// is sent anything.
	settleTime = 100 * time.Millisecond

	// stallTime is how long a server may take nothing while another waits.
	stallTime = 5 * time.Second

	// askAfter is how old a session is when its server is asked whether it reads.
	askAfter = 2 * time.Second

	// idleTime is for how long all must have been acknowledged when a peer closes,
	// for that to be no failure to read.
	idleTime = time.Second

	// doubtTime is how long a peer that has closed its side has to show that it reads
	// on.
	doubtTime = 2 * time.Second

	// partTime is how long a server that works has to take what it was sent when
	// another takes its place; finishTime, where that was the last; closeTime, to
	// close when it has.
	partTime   = time.Second
	finishTime = 5 * time.Second
	closeTime  = 500 * time.Millisecond
)

var (
	errStalled = errors.New("the server reads nothing, and another one waits")
	errCutOff  = errors.New("the server's host answers nothing, and another one waits")
	errPartial = errors.New("the server took only a part of a line")
	errHungUp  = errors.New("closed by the server, and what it had acknowledged may be lost")
)

// A session sends on one connection.
type session struct {
	*connection
	sent
	outlet *Outlet
	source Source

	within time.Duration // in which what was written must have left
	proven bool
	paused atomic.Bool // it has taken nothing for stallTime
	asking atomic.Bool // the server, whether it reads
	asked  uint64      // Acked when that last began
	peer   hangup
	leave  leave
	timer  *time.Timer

	besides sync.WaitGroup // what goes on beside
}

// A hangup is how the peer ended its side of a connection.
type hangup struct {
	err     error
	at      time.Time // when it did
	half    bool      // it may be reading still
	written uint64    // what was written then
}

// A departure is why we leave a server.
type departure struct {
	why error
	to  *connection // that goes on; nil: none is open yet
}

// leave is how we do.
type leave struct {
	departure
	asked chan departure // cap 1
	by    time.Time      // at the latest, where it works
}

// session sends on c, which it takes, until that breaks or there is something better
// to do. It returns how long the server worked, and why it ended.
func (o *Outlet) session(parent context.Context, c *connection) (lived time.Duration, why error) {
	now := time.Now()
	s := &session{
		connection: c, sent: newSent(now), outlet: o, source: o.source, within: answerTime,
		leave: leave{asked: make(chan departure, 1)}, timer: newTimer(0, false),
	}
	trial := o.failover.begin(now, c.server)
	a := c.server.entry.address
	o.source.Begin(now, Session{Upstream: a.String(), Certain: a.Network == "stdout"})

	ctx, cancel := context.WithCancel(parent)
	o.beside(ctx, s)
	interrupted := context.AfterFunc(ctx, c.interrupt)

	if trial && !s.isDatagram() {
		s.settle(ctx, settleTime)
	}
	why = s.reason(ctx, s.send(ctx))
	how, why := s.end(parent, why)
	ended := time.Now()
	if s.isDoubtful() {
		ended = s.peer.at
	}
	o.source.End(ended, how)
	interrupted()
	cancel()
	c.interrupt()
	s.besides.Wait()
	<-c.watched
	o.better = s.next()
	return ended.Sub(c.began), c.explain(why)
}

// isDatagram says whether lines go in datagrams.
func (s *session) isDatagram() bool { return s.server.entry.address.isDatagram() }

// send sends until the connection breaks, the source is drained, or there is
// something better to do; it returns what.
func (s *session) send(ctx context.Context) error {
	for {
		s.outlet.pulse.Work()
		now := time.Now()
		if err := s.peerEnded(now); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if now.Sub(s.looked) >= lookEvery {
			if err := s.collect(now); err != nil {
				return err
			}
		}
		again, err := s.tell(now)
		if err != nil {
			return err
		}
		s.noteStall(ctx, now)
		s.askReading(ctx, now)
		if s.isLeaving(now, again > 0) {
			return s.leave.why
		}
		s.narrow(s.source.HasBacklog())
		lines, wait, err := s.source.Next(now)
		switch {
		case err != nil:
			return err
		case s.leave.why != nil && (!s.mid || len(lines) == 0):
			s.await(ctx, firstLook)
		case len(lines) > 0:
			err = s.write(now, lines, wait)
		default:
			s.await(ctx, s.nextLook(now, wait, again))
		}
		if err != nil {
			return err
		}
	}
}

// write writes from lines. Where we leave, only the rest of a line.
func (s *session) write(now time.Time, lines []byte, within time.Duration) error {
	limit := writeTime
	if within > 0 {
		limit, s.within = min(limit, within), min(s.within, within)
	}
	if s.leave.why != nil {
		lines = lines[:bytes.IndexByte(lines, '\n')+1]
	}
	if s.server.entry.address.Network == "stdout" {
		s.outlet.pulse.Rest() // who reads it may stop
	}
	n, err := s.link.write(lines, limit)
	if s.took(now, lines[:n]); n > 0 {
		s.source.Wrote(now, n)
	}
	if errors.Is(err, errTooLong) {
		s.source.Refuse(packetEnd(lines[n:], s.config.MaxDatagram))
		return nil
	}
	return s.named("send to", err)
}

// reason returns why the peer hung up, if it said so: a write may fail before that is read.
func (s *session) reason(ctx context.Context, why error) error {
	if !isHangUp(why) {
		return why
	}
	if s.peer.err == nil {
		s.settle(ctx, settleTime)
	}
	if err := s.peer.err; err != nil && !errors.Is(err, errClosed) && !isHangUp(err) {
		return s.named("watch", err)
	}
	return why
}

// isHangUp says whether an error says no more than that the peer has hung up.
func isHangUp(err error) bool {
	return errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET)
}

// named says which server an error is of.
func (s *session) named(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s upstream %s (%s): %w", what, s.server.entry.address, s.server.at, err)
}

// collect asks what is acknowledged.
func (s *session) collect(now time.Time) error {
	peer, err := s.link.look(now, s.within)
	s.saw(now, peer)
	if !s.proven && now.Sub(s.began) >= provenAge && !s.isDoubtful() && s.stands(now) < provenAge/2 {
		s.proven = true
		s.outlet.failover.proven(now, s.server)
	}
	return s.named("watch", err)
}

// tell tells the source what is acknowledged: nothing, while that is in doubt.
func (s *session) tell(now time.Time) (again time.Duration, err error) {
	if s.isDoubtful() {
		return doubtTime, nil
	}
	due, err := s.source.Ack(now, s.Peer)
	if s.within = answerTime; due.Leave > 0 {
		s.within = due.Leave
	}
	return due.Again, err
}

// isDoubtful says whether the peer has closed its side, and has not yet shown that
// it reads all the same.
func (s *session) isDoubtful() bool { return s.peer.half && s.Acked <= s.peer.written }

// peerEnded returns why the session ends, if the peer has ended it. One that closes
// its side may read on (shutdown(2)): as long as something is under way, only its
// answer to that tells. Where nothing is, it was idle, or took nothing at all.
func (s *session) peerEnded(now time.Time) error {
	if s.peer.err == nil {
		select {
		case s.peer.err = <-s.heard:
		default:
		}
	}
	switch {
	case s.peer.err == nil:
		return nil
	case s.peer.half:
		if s.isDoubtful() && now.Sub(s.peer.at) >= doubtTime && now.Sub(s.wrote) >= doubtTime {
			return s.named("send to", errHungUp)
		}
		return nil
	}
	s.peer.at = now
	if !errors.Is(s.peer.err, errClosed) {
		return s.named("watch", s.peer.err)
	}
	if err := s.collect(now); err != nil {
		return err
	}
	if s.written == 0 && s.mayBeIdle(now) || s.written > 0 && s.isAcked() && now.Sub(s.lastAck) >= idleTime {
		return s.named("watch", errClosed)
	}
	s.peer.half, s.peer.written = true, s.written
	return nil
}

// mayBeIdle says whether nothing waits to be sent.
func (s *session) mayBeIdle(now time.Time) bool {
	lines, _, _ := s.source.Next(now)
	return len(lines) == 0
}

// isLeaving says whether it is time to leave a server that works. inDoubt says that the source
// waits for something to prove delivered.
func (s *session) isLeaving(now time.Time, inDoubt bool) bool {
	if s.leave.why == nil {
		select {
		case d := <-s.leave.asked:
			s.depart(now, d)
		default:
			s.depart(now, departure{why: s.outdated(now)})
		}
	}
	switch why := s.leave.why; {
	case why == nil:
		return false
	case errors.Is(why, errTooOld):
		return s.isAcked() && !s.mid && !inDoubt // there is no hurry
	case errors.Is(why, errStalled):
		return true
	}
	return !s.mid || now.After(s.leave.by)
}

// ask asks the session to end, and says whether nobody else has.
func (s *session) ask(d departure) bool {
	select {
	case s.leave.asked <- d:
		return true
	default:
		return false
	}
}

// next returns the connection that goes on, if there is one.
func (s *session) next() *connection {
	select {
	case d := <-s.leave.asked: // too late
		s.depart(time.Now(), d)
	default:
	}
	return s.leave.to
}

// depart makes the session end when it can.
func (s *session) depart(now time.Time, d departure) {
	if s.leave.to != nil {
		s.leave.to.close()
	}
	s.leave.departure, s.leave.by = d, now.Add(partTime)
}

// outdated says why the connection is not what the configuration wants.
func (s *session) outdated(now time.Time) error {
	if s.config != s.outlet.config.Load() {
		return errMoved
	}
	if most := s.config.MaxAge; most > 0 && now.Sub(s.began) >= most {
		return errTooOld
	}
	return nil
}

// noteStall takes note of whether the server takes nothing. It is left when another one can
// be connected to; until then it is waited for, but it isn't up.
func (s *session) noteStall(ctx context.Context, now time.Time) {
	since := s.progress
	paused := s.stands(now) >= stallTime
	if !s.paused.CompareAndSwap(!paused, paused) {
		return
	}
	if !paused {
		since = time.Time{}
	}
	s.outlet.failover.pauses(s.server, since, s.isCutOff(now))
	if paused {
		s.besides.Go(func() { s.outlet.leaveStalled(ctx, s) })
	}
}

// isCutOff says whether a server that takes nothing has a host that answers nothing, either.
func (s *session) isCutOff(now time.Time) bool {
	return s.Silence > 0 && s.Silence+now.Sub(s.looked) >= stallTime
}

// askReading has a server asked whether it reads what its kernel acknowledges.
func (s *session) askReading(ctx context.Context, now time.Time) {
	isTCP := s.server.entry.address.Host != "" && !s.isDatagram()
	if isTCP && s.leave.why == nil && s.Acked > s.asked && now.Sub(s.began) >= askAfter && s.outlet.failover.isToAsk(now, s.server) && s.asking.CompareAndSwap(false, true) {
		s.asked = s.Acked
		s.besides.Go(func() { s.outlet.leaveSilent(ctx, s) })
	}
}

// nextLook returns how long nothing needs to be done, if nothing happens; 0: for
// ever. wait and again are what the source wants.
func (s *session) nextLook(now time.Time, wait, again time.Duration) time.Duration {
	next := soonest(wait, again)
	if !s.isAcked() || s.isDatagram() && now.Sub(s.wrote) < lateErrors {
		next = soonest(next, s.lookAgain())
	}
	if age := now.Sub(s.began); !s.proven && age < provenAge {
		next = soonest(next, provenAge-age)
	}
	if s.config.MaxAge > 0 {
		next = soonest(next, max(time.Millisecond, s.config.MaxAge-now.Sub(s.began)))
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
	var late <-chan time.Time
	if d > 0 {
		s.timer.Reset(d)
		late = s.timer.C
	}
	s.outlet.pulse.Rest()
	defer s.outlet.pulse.Work()
	select {
	case <-s.source.More():
	case <-late:
	case s.peer.err = <-s.heard:
	case d := <-s.leave.asked:
		s.depart(time.Now(), d)
	case <-s.outlet.changed:
	case <-ctx.Done():
	}
}

// end ends the connection: in order, where it works. It returns why it ended after all.
func (s *session) end(ctx context.Context, why error) (Ending, error) {
	if isOurs(why) {
		err := s.finish(ctx, why)
		isDoubted := errors.Is(why, errDoubted)
		switch {
		case err == nil && isDoubted:
			s.outlet.failover.asked(s.server, true, time.Now().Add(patientInterval))
			s.depart(time.Now(), departure{why: why})
			fallthrough
		case err == nil:
			s.close()
			return Finished, why
		case isDoubted:
			why = errStalled
		case errors.Is(err, errUnread):
			s.close()
			return Broken, why
		default:
			s.outlet.log.Warn("upstream did not take all that it was sent", "upstream", s.server.entry.address.String(), "err", err)
		}
	}
	s.collect(time.Now())
	s.tell(time.Now())
	if errors.Is(why, errStalled) && s.isCutOff(time.Now()) {
		why = errCutOff
	}
	left := s.source.Leaving()
	switch {
	case errors.Is(why, errClosed):
		s.close()
		return Closed, why
	case errors.Is(why, ErrRevoked):
		s.reset()
	case s.isAcked():
		s.close()
	case left == nil || ctx.Err() != nil:
		s.reset()
	default:
		s.outlet.park(ctx, s, left)
	}
	return Broken, why
}

// errUnread says that a peer has acknowledged all, but does not close.
var errUnread = errors.New("the server does not close")

// finish says that nothing more comes, and waits until the peer has acknowledged
// all and closed.
func (s *session) finish(ctx context.Context, why error) error {
	if s.mid {
		return errPartial
	}
	limit, patience := partTime, closeTime
	switch {
	case errors.Is(why, ErrDrained):
		limit = finishTime
	case errors.Is(why, errDoubted):
		limit, patience = stallTime, stallTime
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	answers, err := s.closeWrite()
	if err != nil || !answers {
		return err
	}
	var unread time.Time // since when all is acknowledged
	for {
		now := time.Now()
		if err := s.collect(now); err != nil {
			return err
		}
		s.tell(now)
		if s.isAcked() {
			if s.peer.half || errors.Is(s.peer.err, errClosed) {
				return nil
			}
			if unread.IsZero() {
				unread = now
			}
		}
		switch {
		case s.peer.err != nil && !errors.Is(s.peer.err, errClosed):
			return s.peer.err
		case !unread.IsZero() && (ctx.Err() != nil || now.Sub(unread) >= patience):
			return errUnread
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.settle(ctx, 10*time.Millisecond)
	}
}

// settle gives the peer time to end the connection.
func (s *session) settle(ctx context.Context, d time.Duration) {
	s.timer.Reset(d)
	s.outlet.pulse.Rest()
	defer s.outlet.pulse.Work()
	select {
	case s.peer.err = <-s.heard:
	case <-s.timer.C:
	case <-ctx.Done():
	}
}
