package proxy

import (
	"bytes"
	"cmp"
	"errors"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/membership"
)

// statsdGuard is how long before its horizon a claim's lines must have left the kernel. None is written
// in as long before that: a peer may put off its acknowledgement by 40 ms.
const statsdGuard = 50 * time.Millisecond

// lateAge is how old lines are that come late.
const lateAge = time.Second

// A statsdSource gives StatsD lines to an outlet: each at most once, and only under
// the name that is held at that moment. A line is forwarded when the peer's kernel
// has acknowledged it; what is in doubt when a session ends is lost.
type statsdSource struct {
	queue *statsdQueue

	hand   *batch // taken from the queue: to be written
	mid    bool   // hand begins with the rest of a line
	flight flight
}

// A flight is what was written in a session, and is not acknowledged.
type flight struct {
	queue    *statsdQueue
	upstream string
	lines    []byte
	acked    uint64 // bytes of the session before them

	claim *membership.Claim // that some are under, the oldest; nil: they need no name
	until uint64            // these end, in bytes of the session
}

var _ outlet.Source = (*statsdSource)(nil)

func (s *statsdSource) Begin(_ time.Time, session outlet.Session) {
	s.flight = flight{queue: s.queue, upstream: session.Upstream, lines: s.flight.lines[:0]}
}

// errCut says that the rest of a line must not leave, though its beginning has left.
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
		if lines, wait, err = s.mayLeave(now); err != nil || wait > 0 || len(lines) > 0 {
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
	case 0 < left && left <= 2*statsdGuard && !s.mid: // the claim is renewed until then, or suspended
		return nil, left, nil
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
	bound := b.split(b.names.owns)
	b.names = nil
	if isOver {
		s.queue.drop(bound.lines, claimLost)
		bound.free()
	} else {
		s.queue.park(bound)
	}
	return b.buf, 0, nil
}

func (s *statsdSource) Wrote(_ time.Time, n int) {
	written := s.hand.buf[:n]
	s.mid = written[n-1] != '\n'
	s.take(n)
}

// take moves bytes from the batch in hand to what is in flight.
func (s *statsdSource) take(n int) {
	written, f := s.hand.buf[:n], &s.flight
	f.lines = append(f.lines, written...)
	if s.hand.names != nil {
		f.claim, f.until = cmp.Or(f.claim, s.hand.names.claim), f.acked+uint64(len(f.lines))
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
	s.flight.Ack(peer.Acked)
	if s.flight.claim == nil {
		return outlet.Due{}, nil
	}
	left := s.flight.Left()
	if left <= 0 {
		return outlet.Due{}, outlet.ErrRevoked
	}
	return outlet.Due{Again: left, Leave: left}, nil
}

// Repeats implements outlet.Source.
func (s *statsdSource) Repeats() bool { return false }

// Leave implements outlet.Source: what is in flight stays queued until it is known what becomes of it.
func (s *statsdSource) Leave() (l outlet.Leaving, rest []byte) {
	if s.mid {
		rest = bytes.Clone(s.hand.buf[:bytes.IndexByte(s.hand.buf, '\n')+1])
		s.take(len(rest))
		s.mid = false
	}
	f := s.flight
	s.flight = flight{}
	return &f, rest
}

// Ack implements outlet.Leaving.
func (f *flight) Ack(acked uint64) {
	if n := int(acked - f.acked); n > 0 {
		f.queue.forward(f.upstream, bytes.Count(f.lines[:n], newline))
		f.lines = f.lines[:copy(f.lines, f.lines[n:])]
		f.acked = acked
	}
	if acked >= f.until {
		f.claim = nil
	}
}

// Left implements outlet.Leaving.
func (f *flight) Left() time.Duration {
	if f.claim == nil {
		return statsdMaxAge
	}
	left, _ := standing(f.claim)
	return left - statsdGuard
}

// End implements outlet.Leaving: what is in doubt is lost.
func (f *flight) End() { f.queue.drop(bytes.Count(f.lines, newline), sendError) }

// End drops what is in doubt, including the rest of a line that was written in part.
func (s *statsdSource) End(time.Time, outlet.Ending) {
	s.flight.End()
	if s.mid {
		s.mid = false
		s.Refuse(bytes.IndexByte(s.hand.buf, '\n') + 1)
	}
}

func (s *statsdSource) Expire(now time.Time) (again time.Duration, err error) {
	s.queue.dropOld(now, time.Time{})
	if s.hand != nil && s.hand.tooOld(now) {
		s.queue.drop(s.hand.lines, tooOld)
		s.hand.free()
		s.hand = nil
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
