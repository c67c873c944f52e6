package proxy

import (
	"bytes"
	"cmp"
	"errors"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/membership"
)

// statsdGuard is how long before its horizon a claim's lines must have left the
// kernel.
const statsdGuard = 50 * time.Millisecond

// lateAge is how old lines are that come late.
const lateAge = time.Second

// A statsdSource gives StatsD lines to an outlet: each at most once, and only under
// the name that is held at that moment. A line is forwarded when the peer's kernel
// has acknowledged it; what is in doubt when a session ends is lost.
type statsdSource struct {
	queue *statsdQueue

	hand     *batch // taken from the queue: to be written
	mid      bool   // hand begins with the rest of a line
	upstream string
	flight   []byte // what is not acknowledged
	acked    uint64 // bytes of this session before it

	claim *membership.Claim // that lines in flight are under, the oldest; nil: they need no name
	until uint64            // they end, in bytes of the session
}

var _ outlet.Source = (*statsdSource)(nil)

func (s *statsdSource) Begin(_ time.Time, session outlet.Session) {
	s.upstream, s.acked = session.Upstream, 0
}

// errCut says that a line may not go on to leave of which a part has.
var errCut = errors.New("the rest of a line may not leave any more")

// suspendedLook is when to look again whether a claim was renewed under which the rest of
// a line waits.
const suspendedLook = time.Second

func (s *statsdSource) Next(now time.Time) (lines []byte, wait time.Duration, err error) {
	for {
		if s.hand == nil {
			if s.hand, err = s.queue.tryTake(); s.hand == nil {
				return nil, 0, err
			}
		}
		lines, wait, err := s.mayLeave(now)
		if err != nil || wait > 0 || len(lines) > 0 {
			return lines, wait, err
		}
		s.hand.free()
		s.hand = nil
	}
}

// mayLeave takes from the batch in hand all that may not leave now: StatsD means
// now, and leaves only under the name that is held at this moment. It returns what may,
// and how long; or how long to wait for the rest of a line.
func (s *statsdSource) mayLeave(now time.Time) (lines []byte, wait time.Duration, err error) {
	b := s.hand
	if len(b.buf) == 0 {
		return nil, 0, nil
	}
	left, isOver := time.Duration(0), false // of lines that need no name: no end
	if b.names != nil {
		left, isOver = standing(b.names.claim)
	}
	isHeld := b.names == nil || left > 0
	overtakes := b.names != nil && !b.parked && s.queue.hasParked() // the claim was renewed since b was taken
	switch {
	case isHeld && !overtakes && !b.tooOld(now):
		return b.buf, left, nil
	case s.mid && isHeld: // a part of a line is worse than one that is late
		return b.buf[:bytes.IndexByte(b.buf, '\n')+1], left, nil
	case s.mid && !isOver:
		return nil, suspendedLook, nil
	case s.mid:
		return nil, 0, errCut
	case b.tooOld(now):
		s.queue.drop(b.lines, tooOld)
		b.cut(len(b.buf), b.lines)
		return nil, 0, nil
	}
	if !isOver {
		s.queue.park(b.split(b.names.owns))
	} else {
		s.queue.drop(b.keep(func(ln []byte) bool { return !b.names.owns(ln) }), claimLost)
	}
	b.names = nil
	return b.buf, 0, nil
}

func (s *statsdSource) Wrote(_ time.Time, n int) {
	written := s.hand.buf[:n]
	s.mid = written[n-1] != '\n'
	s.flight = append(s.flight, written...)
	if s.hand.names != nil {
		s.claim, s.until = cmp.Or(s.claim, s.hand.names.claim), s.acked+uint64(len(s.flight))
	}
	s.hand.cut(n, bytes.Count(written, newline))
}

var newline = []byte{'\n'}

// Refuse drops lines that would never fit.
func (s *statsdSource) Refuse(n int) {
	lines := bytes.Count(s.hand.buf[:n], newline)
	s.queue.drop(lines, sendError)
	s.hand.cut(n, lines)
}

func (s *statsdSource) Ack(_ time.Time, peer outlet.Peer) (due outlet.Due, err error) {
	if n := int(peer.Acked - s.acked); n > 0 {
		s.queue.forward(s.upstream, bytes.Count(s.flight[:n], newline))
		s.flight = s.flight[:copy(s.flight, s.flight[n:])]
		s.acked += uint64(n)
	}
	if peer.Acked >= s.until {
		s.claim = nil
	}
	if s.claim == nil {
		return outlet.Due{}, nil
	}
	left := timeToLeave(s.claim)
	if left <= 0 {
		return outlet.Due{}, outlet.ErrRevoked
	}
	return outlet.Due{Again: left, Leave: left}, nil
}

// timeToLeave returns how long lines under a claim may still leave.
func timeToLeave(claim *membership.Claim) time.Duration {
	left, _ := standing(claim)
	return left - statsdGuard
}

// Leaving implements outlet.Source.
func (s *statsdSource) Leaving() func() time.Duration {
	claim := s.claim
	if claim == nil {
		return func() time.Duration { return statsdMaxAge }
	}
	return func() time.Duration { return timeToLeave(claim) }
}

// End drops what is in doubt, and the rest of a line of which a part is.
func (s *statsdSource) End(time.Time, outlet.Ending) {
	s.queue.drop(bytes.Count(s.flight, newline), sendError)
	s.flight, s.claim, s.until = s.flight[:0], nil, 0
	if s.mid {
		s.mid = false
		s.Refuse(bytes.IndexByte(s.hand.buf, '\n') + 1)
	}
}

func (s *statsdSource) Expire(now time.Time) (again time.Duration, err error) {
	s.queue.expire(now, time.Time{})
	if s.hand != nil && s.hand.tooOld(now) {
		s.dropHand(tooOld)
	}
	switch lines, closed := s.queue.left(); {
	case lines > 0:
		return time.Second, nil
	case closed:
		return 0, outlet.ErrDrained
	}
	return 0, nil // an idle host is left alone
}

// HasBacklog says whether the lines in hand come late: after an outage, or when a name has come.
func (s *statsdSource) HasBacklog(now time.Time) bool { return now.Sub(s.hand.born) >= lateAge }

func (s *statsdSource) More() <-chan struct{} { return s.queue.more }
func (s *statsdSource) Lost() uint64          { return s.queue.lost() }

// abandon drops what could not be sent before the end.
func (s *statsdSource) abandon() {
	if s.hand != nil {
		s.dropHand(shutdown)
	}
}

func (s *statsdSource) dropHand(why reason) {
	s.queue.drop(s.hand.lines, why)
	s.hand.free()
	s.hand = nil
}
