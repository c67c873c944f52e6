package proxy

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// How long the sender of Carbon waits.
const (
	// carbonWrite bounds one write, so that what is acknowledged meanwhile gets
	// booked.
	carbonWrite = time.Second

	// firstLook is when acknowledgements are asked for, after the last write; the
	// next looks come later and later, up to lastLook. A peer may put off its
	// acknowledgement by 40 ms.
	firstLook = 50 * time.Millisecond
	lastLook  = time.Second

	// idleTrim is how long nothing must happen for memory to be given back.
	idleTrim = 30 * time.Second
)

// A carbonSender sends Carbon lines on one link after the other. A line is
// booked when the kernel of the peer's host has acknowledged it; what was not is
// sent again, on the next link.
type carbonSender struct {
	queue *carbonQueue
	timer *time.Timer // of await; nil before the first one with a limit
}

func (s *carbonSender) send(ctx context.Context, l *link) error {
	s.queue.rewind()
	defer s.queue.unlink()
	look := firstLook
	for {
		left, err := s.collect(l)
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		l.expectBacklog(s.queue.lags())
		p, wait, err := s.queue.next(time.Now())
		switch {
		case p != nil:
			look = firstLook
			err = s.write(l, p)
		case errors.Is(err, errWritten):
		case wait > 0:
			err = s.await(ctx, wait)
		case left > 0:
			err = s.await(ctx, look)
			look = min(2*look, lastLook)
		default:
			err = s.idle(ctx)
		}
		if err != nil {
			s.collect(l)
			return err
		}
	}
}

// errInterrupted says that a session ended in the middle of a piece.
var errInterrupted = errors.New("interrupted")

// write writes a piece. It returns an error when the link is broken.
func (s *carbonSender) write(l *link, p *piece) error {
	for buf := p.bytes(); len(buf) > 0; {
		l.limit(carbonWrite)
		if l.interrupted.Load() {
			return errInterrupted
		}
		n, err := l.send(buf)
		l.written += uint64(n)
		buf = buf[n:]
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("send to upstream %s: %w", l.resolved, err)
		}
		if len(buf) > 0 {
			if _, err := s.collect(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// collect books what the peer has acknowledged, and returns how many bytes it
// has not.
func (s *carbonSender) collect(l *link) (left int, err error) {
	acked, err := l.acked()
	if err != nil {
		return 0, fmt.Errorf("ask what upstream %s has acknowledged: %w", l.resolved, err)
	}
	return s.queue.ack(time.Now(), l.upstream, acked), nil
}

// await returns after d, unless that is 0, or as soon as something can be sent.
func (s *carbonSender) await(ctx context.Context, d time.Duration) error {
	var late <-chan time.Time
	if d > 0 {
		late = s.after(d)
	}
	select {
	case <-s.queue.more:
		return nil
	case <-late:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *carbonSender) after(d time.Duration) <-chan time.Time {
	if s.timer == nil {
		s.timer = time.NewTimer(d)
	} else {
		s.timer.Reset(d)
	}
	return s.timer.C
}

// idle waits until something can be sent. Where nothing happens for long, memory
// is given back.
func (s *carbonSender) idle(ctx context.Context) error {
	if !s.queue.canTrim() {
		return s.await(ctx, 0)
	}
	began := time.Now()
	err := s.await(ctx, idleTrim)
	if time.Since(began) >= idleTrim {
		s.queue.trim()
	}
	return err
}

// finished books the end of a link: the peer closed after it had read all, or
// has acknowledged all.
func (s *carbonSender) finished(l *link, read bool) {
	if left, err := s.collect(l); err == nil && left == 0 && read {
		s.queue.forget()
	}
}

// abandon: all is in the queue.
func (s *carbonSender) abandon() {}
