package outlet

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

const (
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
	errHungUp  = errors.New("closed by the server, and what it had acknowledged may be lost")
	errUntaken = errors.New("the server has not acknowledged all in time")
)

// A hangup is how the peer ended its side of a connection.
type hangup struct {
	err     error
	at      time.Time // when it did
	half    bool      // it may be reading still
	written uint64    // what was written then
}

// reason returns why the peer hung up, if it said so: a write may fail before that is read.
func (s *session) reason(ctx context.Context, why error) error {
	if !errors.Is(why, syscall.EPIPE) && !errors.Is(why, syscall.ECONNRESET) {
		return why
	}
	if s.peer.err == nil {
		s.settle(ctx, settleTime)
	}
	if errors.Is(s.peer.err, link.ErrClosed) {
		return errHungUp
	}
	return cmp.Or(s.peer.err, why)
}

// isDoubtful says whether the peer has closed its side, and has not yet shown that
// it reads all the same.
func (s *session) isDoubtful() bool { return s.peer.half && s.Acked <= s.peer.written }

// peerEnded returns why the session ends, if the peer has ended it. One that closes
// its side may read on (shutdown(2)): as long as something is under way, only its
// answer to that tells. Where nothing is, it was idle, or took nothing at all.
func (s *session) peerEnded(now time.Time) error {
	select {
	case s.peer.err = <-s.heard:
	default:
	}
	switch {
	case s.peer.err == nil:
		return nil
	case s.peer.half:
		if s.isDoubtful() && now.Sub(s.peer.at) >= doubtTime && now.Sub(s.wrote) >= doubtTime {
			return errHungUp
		}
		return nil
	}
	s.peer.at = now
	if !errors.Is(s.peer.err, link.ErrClosed) {
		return s.peer.err
	}
	if err := s.collect(now); err != nil {
		return err
	}
	isIdle := s.isAcked() && now.Sub(s.lastAck) >= idleTime
	if s.written == 0 {
		lines, _, _ := s.source.Next(now)
		isIdle = len(lines) == 0
	}
	if isIdle {
		return link.ErrClosed
	}
	s.peer.half, s.peer.written, s.trial = true, s.written, settleTime
	return nil
}

// isLeaving says whether it is time to leave, as ctx or the configuration wants. inDoubt says that
// the source waits for something to prove delivered.
func (s *session) isLeaving(ctx context.Context, now time.Time, inDoubt bool) bool {
	why := cmp.Or(context.Cause(ctx), s.why)
	switch {
	case why != nil:
	case s.config != s.outlet.config.Load():
		why = errMoved
	case !s.expires.IsZero() && !now.Before(s.expires):
		why = errTooOld
	}
	if why != s.why {
		s.why, s.by = why, now.Add(partTime)
	}
	switch {
	case why == nil:
		return false
	case errors.Is(why, errTooOld):
		return s.isAcked() && !s.mid && !inDoubt // there is no hurry
	}
	return !isOurs(why) || !s.mid || now.After(s.by)
}

// expiry returns when c is too old; zero: never. That is a little later than configured, and never
// the same: a fleet must not return as one, nor an end that a balancer puts to each connection after
// so many seconds be taken for its answer to ours.
func (c *connection) expiry() (at time.Time) {
	if most := c.config.MaxAge; most > 0 {
		at = c.began.Add(most + most/20 + rand.N(most/20))
	}
	return at
}

// end ends the connection: in order, where it works. It returns why it ended after all.
func (s *session) end(ctx context.Context, why error) (Ending, error) {
	if isOurs(why) {
		if s.finish(ctx, why) {
			s.close()
			return Finished, why
		}
		if errors.Is(why, errDoubted) {
			why = cmp.Or(s.peer.err, errStalled)
		} else if !s.isAcked() || s.mid {
			s.outlet.options.Log.Warn("upstream did not take all that it was sent", "upstream", s.server.entry.address.String(), "err", cmp.Or(s.peer.err, errUntaken))
		}
	}
	s.collect(time.Now())
	s.tell(time.Now())
	if errors.Is(why, errStalled) && s.isCutOff(time.Now()) {
		why = errCutOff
	}
	switch {
	case errors.Is(why, link.ErrClosed):
		s.close()
		return Closed, why
	case errors.Is(why, ErrRevoked):
		s.reset()
	case s.isAcked() && !s.mid, s.isDatagram():
		s.close()
	case s.source.Repeats() || ctx.Err() != nil:
		s.reset()
	default:
		l, rest := s.source.Leave()
		s.outlet.park(ctx, s.connection, s.sent, l, rest)
	}
	return Broken, why
}

// finish says that nothing more comes, waits until the peer has acknowledged all and closed, and says
// whether it has.
func (s *session) finish(ctx context.Context, why error) bool {
	if s.mid {
		return false
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
	answers, err := s.link.CloseWrite()
	if err != nil {
		return false
	}
	for unread := (time.Time{}); ; s.settle(ctx, 10*time.Millisecond) {
		now := time.Now()
		if err = s.collect(now); err == nil {
			_, err = s.tell(now)
		}
		if unread.IsZero() && s.isAcked() {
			unread = now
		}
		hasClosed := !answers || s.peer.half || errors.Is(s.peer.err, link.ErrClosed)
		switch {
		case err == nil && s.isAcked() && hasClosed:
			return true
		case err != nil, s.peer.err != nil && !hasClosed, ctx.Err() != nil, s.isAcked() && now.Sub(unread) >= patience:
			return false
		}
	}
}
