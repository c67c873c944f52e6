package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// Reconnecting.
const (
	minBackoff   = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	seekInterval = 5 * time.Second
	switchLimit  = time.Second // how long a later upstream may take to take what it was sent
)

// errBetter ends the session with an upstream because an earlier one of the
// failover list is back.
var errBetter = errors.New("an earlier upstream is back")

// An upstream sends one protocol's lines to the first server of its failover
// list that works. One goroutine runs it; it owns the link and the batch in
// hand.
//
//	        connect                    session ends
//	down ─────────────→ session ──────────────────────→ down
//	 │ queue drained       │ queue drained: finish
//	 └───────→ end ←───────┘
type upstream struct {
	to     []Address
	queue  *queue
	dialer *dialer
	busy   *busy
	seek   time.Duration // about this long between two looks whether an earlier upstream is back
	log    *slog.Logger

	// gate is asked before every write; nil for Carbon, whose lines keep the
	// name that they were given.
	gate *naming

	hand   *batch // taken from the queue and not booked yet
	better *link  // an earlier upstream that is back; nil: none

	up atomic.Pointer[link] // for status: the link that is in use, or nil
}

// run sends until the queue is drained, or ctx ends.
func (u *upstream) run(ctx context.Context) {
	defer u.abandon()
	var out outage
	for {
		l, err := u.connect(ctx, &out)
		if err != nil {
			return
		}
		u.isUp(l, &out)
		err = u.session(ctx, l)
		u.up.Store(nil)
		switch {
		case errors.Is(err, errDrained), ctx.Err() != nil:
			return
		case !errors.Is(err, errBetter):
			u.isDown(err, &out)
		}
	}
}

// abandon drops what could not be sent before the end.
func (u *upstream) abandon() {
	if u.better != nil {
		u.better.close()
	}
	if u.hand != nil {
		u.queue.drop(u.hand.lines, shutdown)
		u.hand.free()
		u.hand = nil
	}
}

// An outage is the time between two sessions.
type outage struct {
	since   time.Time // zero while the upstream is up
	dropped uint64    // lines dropped before it
	backoff time.Duration
	upSince time.Time
}

// isDown takes note that the upstream failed, and says so the first time. One
// that was up for long is tried again at once.
func (u *upstream) isDown(err error, o *outage) {
	if !o.since.IsZero() {
		return
	}
	if !o.upSince.IsZero() && time.Since(o.upSince) > maxBackoff {
		o.backoff = 0
	}
	o.since, o.dropped = time.Now(), u.queue.lost()
	u.log.Warn("upstream down", "upstream", u.names(), "err", err)
}

func (u *upstream) isUp(l *link, o *outage) {
	u.up.Store(l)
	o.upSince = time.Now()
	attrs := []any{"upstream", u.to[l.index], "resolved", l.resolved}
	if !o.since.IsZero() {
		attrs = append(attrs, "after", time.Since(o.since).Round(time.Millisecond), "lines_lost", u.queue.lost()-o.dropped)
		o.since = time.Time{}
	}
	u.log.Info("upstream up", attrs...)
}

// names writes the failover list.
func (u *upstream) names() string {
	var b bytes.Buffer
	for i, a := range u.to {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(a.String())
	}
	return b.String()
}

// connect returns a link to the first upstream that works, and tries until one
// does. It returns errDrained when nothing is left to send, or ctx's error.
func (u *upstream) connect(ctx context.Context, o *outage) (*link, error) {
	if l := u.better; l != nil {
		u.better = nil
		return l, nil
	}
	for {
		if err := u.backOff(ctx, o); err != nil {
			return nil, err
		}
		l, err := u.dialFirst(ctx, len(u.to))
		if err == nil {
			return l, nil
		}
		u.isDown(err, o)
		u.queue.expire(time.Now(), time.Time{})
	}
}

// backOff waits before the next attempt to connect: not at all before the
// first, then longer each time, with jitter so that a fleet does not return as
// one.
func (u *upstream) backOff(ctx context.Context, o *outage) error {
	wait := o.backoff/2 + rand.N(o.backoff/2+1)
	o.backoff = min(max(2*o.backoff, minBackoff), maxBackoff)
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-u.queue.drained:
		return errDrained
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dialFirst connects to the first of the first n upstreams that works.
func (u *upstream) dialFirst(ctx context.Context, n int) (*link, error) {
	var errs []error
	for i, a := range u.to[:n] {
		l, err := u.dialer.dial(ctx, a)
		if err == nil {
			l.index = i
			return l, nil
		}
		errs = append(errs, fmt.Errorf("dial upstream %s: %w", a, err))
	}
	return nil, errors.Join(errs...)
}

// session sends on l, which it takes, until the link breaks or there is
// something better to do. It returns why: errDrained when the queue is drained.
func (u *upstream) session(parent context.Context, l *link) error {
	ctx, end := context.WithCancelCause(parent)
	var beside sync.WaitGroup
	defer l.close()
	defer beside.Wait()
	defer end(nil)
	context.AfterFunc(ctx, l.interrupt)

	dead := make(chan struct{}) // closed when the peer is gone
	beside.Go(func() {
		err := l.watch(ctx)
		if ctx.Err() == nil {
			close(dead)
		}
		end(fmt.Errorf("upstream %s: %w", l.resolved, err))
	})
	if l.index > 0 {
		beside.Go(func() {
			if u.better = u.seekBetter(ctx, l.index); u.better != nil {
				end(errBetter)
			}
		})
	}

	err := u.sendAll(ctx, l)
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, errDrained) && u.hand == nil && ctx.Err() == nil || errors.Is(err, errBetter) {
		u.finish(parent, l, dead, err)
	}
	return err
}

// finish lets the peer take what it was sent.
func (u *upstream) finish(ctx context.Context, l *link, dead <-chan struct{}, why error) {
	if errors.Is(why, errBetter) {
		limited, cancel := context.WithTimeout(ctx, switchLimit)
		defer cancel()
		ctx = limited
	}
	if err := l.finish(ctx, dead); err != nil {
		u.log.Warn("upstream did not take all that it was sent", "upstream", u.to[l.index], "err", err)
	}
}

// seekBetter looks from time to time whether an upstream before the index-th
// is back, and returns a link to it; nil when ctx ends.
func (u *upstream) seekBetter(ctx context.Context, index int) *link {
	for {
		pause(ctx, u.seek/2+rand.N(u.seek))
		if isPast(ctx) {
			return nil
		}
		if l, err := u.dialFirst(ctx, index); err == nil {
			return l
		}
	}
}

// sendAll takes batches and sends them. It returns errDrained when the queue is
// drained.
func (u *upstream) sendAll(ctx context.Context, l *link) error {
	u.busy.Add(1)
	defer u.busy.Add(-1)
	for {
		if u.hand == nil {
			var err error
			u.busy.idle(func() { u.hand, err = u.queue.take(ctx) })
			if err != nil {
				return err
			}
		}
		if err := u.sendHand(ctx, l); err != nil {
			return err
		}
		u.hand.free()
		u.hand = nil
	}
}

// sendHand sends the batch in hand and books its lines. When it returns an
// error, what is left in hand is to be sent on the next link.
func (u *upstream) sendHand(ctx context.Context, l *link) error {
	for u.mayLeave(l); u.hand.lines > 0; u.mayLeave(l) {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := l.send(u.hand.buf)
		if u.gate == nil {
			err = u.bookCarbon(l, n, err)
		} else {
			err = u.bookStatsD(l, n, err)
		}
		if err != nil {
			return fmt.Errorf("send to upstream %s: %w", l.resolved, err)
		}
	}
	return nil
}

// bookCarbon books what a write of the batch in hand did: all or nothing. A
// batch that was not taken whole is sent again.
func (u *upstream) bookCarbon(l *link, n int, err error) error {
	if err != nil {
		u.queue.resend(bytes.Count(u.hand.buf[:n], newline))
		return err
	}
	u.queue.forward(l.index, u.hand.lines)
	u.hand.cut(n, u.hand.lines)
	return nil
}

// bookStatsD books what a write of the batch in hand did. Nothing is sent
// twice: a line that went half is lost, those behind it were never sent.
func (u *upstream) bookStatsD(l *link, n int, err error) error {
	whole := bytes.LastIndexByte(u.hand.buf[:n], '\n') + 1
	lines := bytes.Count(u.hand.buf[:whole], newline)
	u.queue.forward(l.index, lines)
	u.hand.cut(whole, lines)
	if errors.Is(err, syscall.EMSGSIZE) {
		u.lose(packetEnd(u.hand.buf, l.maxDatagram)) // it would never fit
		return nil
	}
	if n > whole {
		u.lose(bytes.IndexByte(u.hand.buf, '\n') + 1)
	}
	return err
}

var newline = []byte{'\n'}

// lose drops the lines in the first n bytes in hand.
func (u *upstream) lose(n int) {
	lines := bytes.Count(u.hand.buf[:n], newline)
	u.queue.drop(lines, sendError)
	u.hand.cut(n, lines)
}

// mayLeave takes from the batch in hand all that may not leave now: StatsD
// means now, and leaves only under the name that is held at this moment.
func (u *upstream) mayLeave(l *link) {
	b := u.hand
	if u.gate == nil || b.lines == 0 {
		return
	}
	if u.queue.tooOld(b, time.Now()) {
		u.queue.drop(b.lines, tooOld)
		b.cut(len(b.buf), b.lines)
		return
	}
	if b.claim == nil {
		l.limit(statsdStall)
		return
	}
	claim, ok := u.gate.names.Current()
	overtakes := !b.parked && u.queue.hasParked() // the claim was renewed since b was taken
	if claim == b.claim && ok && !overtakes {
		l.limit(min(claim.Left(), statsdStall))
		return
	}
	owned := u.gate.of(b.claim).owns
	if claim == b.claim {
		u.park(b.split(owned))
	} else {
		u.queue.drop(b.keep(func(ln []byte) bool { return !owned(ln) }), claimLost)
	}
	b.claim = nil
	l.limit(statsdStall)
}

// park gives lines back to the queue, to wait for their claim.
func (u *upstream) park(b *batch) {
	if b.lines == 0 {
		b.free()
		return
	}
	u.queue.park(b)
}

// status describes the failover list.
func (u *upstream) status(p line.Protocol) []UpstreamStatus {
	out := make([]UpstreamStatus, len(u.to))
	for i, a := range u.to {
		out[i] = UpstreamStatus{Protocol: p.String(), Address: a.String()}
	}
	if l := u.up.Load(); l != nil {
		out[l.index].Up, out[l.index].Resolved = true, l.resolved
	}
	return out
}
