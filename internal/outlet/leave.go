package outlet

import (
	"context"
	"errors"
	"time"
)

const (
	// partTime is how long a server that works has to take what it was sent when
	// another takes its place; finishTime, where that was the last; closeTime, to
	// close when it has.
	partTime   = time.Second
	finishTime = 5 * time.Second
	closeTime  = 500 * time.Millisecond
)

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

// ask asks the session to end, and says whether nobody else has. Any goroutine may.
func (l *leave) ask(d departure) bool {
	select {
	case l.asked <- d:
		return true
	default:
		return false
	}
}

// depart makes the session end when it can.
func (l *leave) depart(now time.Time, d departure) {
	if l.to != nil {
		l.to.close()
	}
	l.departure, l.by = d, now.Add(partTime)
}

// next returns the connection that goes on, if there is one.
func (l *leave) next() *connection {
	select {
	case d := <-l.asked: // too late
		l.depart(time.Now(), d)
	default:
	}
	return l.to
}

// isLeaving says whether it is time to leave a server that works. inDoubt says that the source
// waits for something to prove delivered.
func (s *session) isLeaving(now time.Time, inDoubt bool) bool {
	if s.leave.why == nil {
		select {
		case d := <-s.leave.asked:
			s.leave.depart(now, d)
		default:
			s.leave.depart(now, departure{why: s.outdated(now)})
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

// end ends the connection: in order, where it works. It returns why it ended after all.
func (s *session) end(ctx context.Context, why error) (Ending, error) {
	if isOurs(why) {
		isDoubted := errors.Is(why, errDoubted)
		switch err := s.finish(ctx, why); {
		case err == nil && isDoubted:
			s.outlet.failover.asked(s.server, true, time.Now().Add(patientInterval))
			s.leave.depart(time.Now(), departure{why: why}) // and come back
			fallthrough
		case err == nil:
			s.close()
			return Finished, why
		case isDoubted && s.peer.err == nil:
			why = errStalled
		case isDoubted:
			why = s.named("watch", s.peer.err)
		case !errors.Is(err, errUnread):
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

// Why a connection does not end in order. errUnread: all is acknowledged.
var (
	errPartial = errors.New("the server took only a part of a line")
	errUntaken = errors.New("the server has not acknowledged all in time")
	errUnread  = errors.New("the server does not close")
)

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
		if _, err := s.tell(now); err != nil {
			return err
		}
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
			return errUntaken
		}
		s.settle(ctx, 10*time.Millisecond)
	}
}
