package outlet

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

const (
	// partTime is how long a server that works has to take what it was sent when
	// another takes its place; finishTime, where that was the last; closeTime, to
	// close when it has.
	partTime   = time.Second
	finishTime = 5 * time.Second
	closeTime  = 500 * time.Millisecond
)

// leave is how we leave a server that works.
type leave struct {
	ask     context.CancelCauseFunc // says why we should; the first reason holds. Any goroutine may
	expires time.Time               // when we should; zero: never
	why     error                   // we do when we can; nil: we don't
	by      time.Time               // at the latest
}

// keep puts off the end of a session that would be too old before then.
func (l *leave) keep(until time.Time) {
	if !l.expires.IsZero() && l.expires.Before(until) {
		l.expires = until
	}
}

// isLeaving says whether it is time to leave, as ctx or the configuration wants. inDoubt says that
// the source waits for something to prove delivered.
func (s *session) isLeaving(ctx context.Context, now time.Time, inDoubt bool) bool {
	if why := cmp.Or(context.Cause(ctx), s.why, s.outdated(now)); why != s.why {
		s.why, s.by = why, now.Add(partTime)
	}
	switch {
	case s.why == nil:
		return false
	case errors.Is(s.why, errTooOld):
		return s.isAcked() && !s.mid && !inDoubt // there is no hurry
	case !isOurs(s.why):
		return true
	}
	return !s.mid || now.After(s.by)
}

// outdated says why the connection is not what the configuration wants.
func (s *session) outdated(now time.Time) error {
	if s.config != s.outlet.config.Load() {
		return errMoved
	}
	if !s.expires.IsZero() && !now.Before(s.expires) {
		return errTooOld
	}
	return nil
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
		err := s.finish(ctx, why)
		switch {
		case err == nil:
			s.close()
			return Finished, why
		case errors.Is(why, errDoubted):
			if why = errStalled; s.peer.err != nil {
				why = s.peer.err
			}
		case !errors.Is(err, errUnread):
			s.outlet.options.Log.Warn("upstream did not take all that it was sent", "upstream", s.server.entry.address.String(), "err", err)
		}
	}
	s.collect(time.Now())
	s.tell(time.Now())
	if errors.Is(why, errStalled) && s.isCutOff(time.Now()) {
		why = errCutOff
	}
	left := s.source.Leaving()
	switch {
	case errors.Is(why, link.ErrClosed):
		s.close()
		return Closed, why
	case errors.Is(why, ErrRevoked):
		s.reset()
	case s.isAcked() && !s.mid, s.isDatagram():
		s.close()
	case left == nil || ctx.Err() != nil:
		s.reset()
	default:
		s.outlet.park(ctx, s.connection, s.sent, s.rest(), left)
	}
	return Broken, why
}

// rest returns what is missing of a line of which a part was written.
func (s *session) rest() []byte {
	if !s.mid {
		return nil
	}
	lines, _, _ := s.source.Next(time.Now())
	return bytes.Clone(lines[:bytes.IndexByte(lines, '\n')+1])
}

// Why a connection does not end in order. errUnread: all is acknowledged.
var (
	errUntaken = errors.New("the server has not acknowledged all in time")
	errUnread  = errors.New("the server does not close")
)

// finish says that nothing more comes, and waits until the peer has acknowledged
// all and closed.
func (s *session) finish(ctx context.Context, why error) error {
	if s.mid {
		return errUntaken
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
		if unread.IsZero() && s.isAcked() {
			unread = now
		}
		hasClosed := s.peer.half || errors.Is(s.peer.err, link.ErrClosed)
		switch {
		case s.isAcked() && hasClosed:
			return nil
		case s.peer.err != nil && !hasClosed:
			return s.peer.err
		case s.isAcked() && (ctx.Err() != nil || now.Sub(unread) >= patience):
			return errUnread
		case ctx.Err() != nil:
			return errUntaken
		}
		s.settle(ctx, 10*time.Millisecond)
	}
}
