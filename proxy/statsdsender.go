package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"
)

// A statsdSender sends StatsD lines: each at most once, and only under the name
// that is held at that moment. It owns the batch in hand.
type statsdSender struct {
	queue *statsdQueue
	gate  *naming // asked before every write

	hand *batch // taken from the queue and not booked yet
}

// send takes batches and sends them, until the link breaks or the queue is
// drained.
func (s *statsdSender) send(ctx context.Context, l *link) error {
	for {
		if s.hand == nil {
			var err error
			if s.hand, err = s.queue.take(ctx); err != nil {
				return err
			}
		}
		if err := s.sendHand(ctx, l); err != nil {
			return err
		}
		s.hand.free()
		s.hand = nil
	}
}

// finished: what was written is booked already.
func (s *statsdSender) finished(*link, bool) {}

// abandon drops what could not be sent before the end.
func (s *statsdSender) abandon() {
	if s.hand != nil {
		s.queue.drop(s.hand.lines, shutdown)
		s.hand.free()
		s.hand = nil
	}
}

// sendHand sends the batch in hand and books its lines. When it returns an
// error, what is left in hand is to be sent on the next link.
func (s *statsdSender) sendHand(ctx context.Context, l *link) error {
	for s.mayLeave(l); s.hand.lines > 0; s.mayLeave(l) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := l.send(s.hand.buf)
		if err = s.book(l, n, err); err != nil {
			return fmt.Errorf("send to upstream %s: %w", l.resolved, err)
		}
	}
	return nil
}

// book books what a write of the batch in hand did. Nothing is sent twice: a
// line that went half is lost, those behind it were never sent.
func (s *statsdSender) book(l *link, n int, err error) error {
	whole := bytes.LastIndexByte(s.hand.buf[:n], '\n') + 1
	lines := bytes.Count(s.hand.buf[:whole], newline)
	s.queue.forward(l.upstream, lines)
	s.hand.cut(whole, lines)
	if errors.Is(err, syscall.EMSGSIZE) {
		s.lose(packetEnd(s.hand.buf, l.maxDatagram)) // it would never fit
		return nil
	}
	if n > whole {
		s.lose(bytes.IndexByte(s.hand.buf, '\n') + 1)
	}
	return err
}

var newline = []byte{'\n'}

// lose drops the lines in the first n bytes in hand.
func (s *statsdSender) lose(n int) {
	lines := bytes.Count(s.hand.buf[:n], newline)
	s.queue.drop(lines, sendError)
	s.hand.cut(n, lines)
}

// mayLeave takes from the batch in hand all that may not leave now: StatsD
// means now, and leaves only under the name that is held at this moment.
func (s *statsdSender) mayLeave(l *link) {
	b := s.hand
	if b.lines == 0 {
		return
	}
	if b.tooOld(time.Now()) {
		s.queue.drop(b.lines, tooOld)
		b.cut(len(b.buf), b.lines)
		return
	}
	if b.claim == nil {
		l.limit(statsdStall)
		return
	}
	claim, ok := s.gate.names.Current()
	overtakes := !b.parked && s.queue.hasParked() // the claim was renewed since b was taken
	if claim == b.claim && ok && !overtakes {
		l.limit(min(claim.Left(), statsdStall))
		return
	}
	owned := s.gate.of(b.claim).owns
	if claim == b.claim {
		s.park(b.split(owned))
	} else {
		s.queue.drop(b.keep(func(ln []byte) bool { return !owned(ln) }), claimLost)
	}
	b.claim = nil
	l.limit(statsdStall)
}

// park gives lines back to the queue, to wait for their claim.
func (s *statsdSender) park(b *batch) {
	if b.lines == 0 {
		b.free()
		return
	}
	s.queue.park(b)
}
