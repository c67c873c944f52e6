package proxy

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
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

// errMoved ends the session with an upstream because the configuration names
// others now.
var errMoved = errors.New("other upstreams are configured")

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
	*target // that run works with
	queue   queue
	sender  sender
	dialer  *dialer
	seek    time.Duration // about this long between two looks whether an earlier upstream is back
	log     *slog.Logger

	better *link // an earlier upstream that is back; nil: none

	asked atomic.Pointer[target] // what the configuration says; run takes it over
	moved chan struct{}          // cap 1: asked is new

	up atomic.Pointer[link] // for status: the link that is in use, or nil
}

// A target is where lines go, and how.
type target struct {
	to          []Address // the failover list; empty: what waits, waits on
	maxDatagram int       // bytes of payload
}

// retarget makes run go on with t. The session with an upstream of before ends
// gracefully; what waits is sent to the new one.
func (u *upstream) retarget(t *target) {
	u.queue.account().know(t.to)
	u.asked.Store(t)
	notify(u.moved)
}

// follow takes over what the configuration says.
func (u *upstream) follow(o *outage) {
	select {
	case <-u.moved:
	default:
	}
	t := u.asked.Load()
	if t == u.target {
		return
	}
	u.target, u.dialer.maxDatagram = t, t.maxDatagram
	u.closeBetter()
	*o = outage{}
}

// A sender sends the lines of a queue, in the manner of their protocol.
type sender interface {
	// send sends on l until that breaks, or ctx ends, between two lines if l is
	// not interrupted, or nothing is left: errDrained, or errWritten where the
	// peer has not acknowledged all.
	send(ctx context.Context, l *link) error

	// finished is told that l ended gracefully. read says that the peer has
	// read all: it closed when it knew that no more would come.
	finished(l *link, read bool)

	// abandon ends the sender: what is in its hands was not sent.
	abandon()
}

// run sends until the queue is drained, or ctx ends.
func (u *upstream) run(ctx context.Context) {
	defer u.closeBetter()
	defer u.sender.abandon()
	var out outage
	for {
		u.follow(&out)
		l, err := u.connect(ctx, &out)
		if errors.Is(err, errMoved) {
			continue
		}
		if err != nil {
			return
		}
		u.isUp(l, &out)
		err = u.session(ctx, l)
		u.up.Store(nil)
		switch {
		case u.queue.account().isDrained(), ctx.Err() != nil:
			return
		case !errors.Is(err, errBetter) && !errors.Is(err, errMoved):
			u.isDown(err, &out)
		}
	}
}

func (u *upstream) closeBetter() {
	if u.better != nil {
		u.better.close()
		u.better = nil
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
	o.since, o.dropped = time.Now(), u.queue.account().lost()
	u.log.Warn("upstream down", "upstream", u.names(), "err", err)
}

func (u *upstream) isUp(l *link, o *outage) {
	u.up.Store(l)
	o.upSince = time.Now()
	attrs := []any{"upstream", u.to[l.index], "resolved", l.resolved}
	if !o.since.IsZero() {
		attrs = append(attrs, "after", time.Since(o.since).Round(time.Millisecond), "lines_lost", u.queue.account().lost()-o.dropped)
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
// does. It returns errDrained when nothing is left to send, errMoved, or ctx's
// error.
func (u *upstream) connect(ctx context.Context, o *outage) (*link, error) {
	if l := u.better; l != nil {
		u.better = nil
		return l, nil
	}
	if len(u.to) == 0 {
		return nil, u.awaitTarget(ctx)
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

// awaitTarget waits until there is an upstream, and returns errMoved; or as connect
// does.
func (u *upstream) awaitTarget(ctx context.Context) error {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		if books, _ := u.queue.snapshot(); books.queued == 0 {
			look.Stop() // an idle host is left alone
		}
		select {
		case <-look.C:
			u.queue.expire(time.Now(), time.Time{})
		case <-u.moved:
			return errMoved
		case <-u.queue.account().drained:
			return errDrained
		case <-ctx.Done():
			return ctx.Err()
		}
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
	case <-u.moved:
		return errMoved
	case <-u.queue.account().drained:
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
			l.index, l.upstream = i, a.String()
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
	sending, leave := context.WithCancelCause(ctx)
	var beside sync.WaitGroup
	defer l.close()
	defer beside.Wait()
	defer end(nil)
	context.AfterFunc(ctx, l.interrupt)

	// part ends the session, but not in the middle of a line if the peer takes it.
	part := func(why error) {
		leave(why)
		time.AfterFunc(switchLimit, func() { end(why) })
	}

	dead := make(chan error, 1) // why the peer is gone
	beside.Go(func() {
		err := l.watch(ctx)
		if ctx.Err() == nil {
			dead <- err
		}
		end(fmt.Errorf("upstream %s: %w", l.resolved, err))
	})
	beside.Go(func() {
		select {
		case <-u.moved:
			part(errMoved)
		case <-ctx.Done():
		}
	})
	if l.index > 0 {
		beside.Go(func() {
			if u.better = u.seekBetter(ctx, l.index); u.better != nil {
				part(errBetter)
			}
		})
	}

	err := u.sender.send(sending, l)
	if cause := context.Cause(sending); cause != nil {
		err = cause
	}
	if errors.Is(err, errDrained) || errors.Is(err, errWritten) || errors.Is(err, errBetter) || errors.Is(err, errMoved) {
		err = cmp.Or(u.finish(parent, l, dead, err), err)
	}
	return err
}

// finish lets the peer take what it was sent, and returns what kept it from
// that.
func (u *upstream) finish(ctx context.Context, l *link, dead <-chan error, why error) error {
	if errors.Is(why, errBetter) || errors.Is(why, errMoved) {
		limited, cancel := context.WithTimeout(ctx, switchLimit)
		defer cancel()
		ctx = limited
	}
	read, err := l.finish(ctx, dead)
	if err != nil {
		u.log.Warn("upstream did not take all that it was sent", "upstream", u.to[l.index], "err", err)
	}
	u.sender.finished(l, read)
	return err
}

// seekBetter looks from time to time whether an upstream before the index-th
// is back, and returns a link to it; nil when ctx ends.
func (u *upstream) seekBetter(ctx context.Context, index int) *link {
	for {
		pause(ctx, u.seek/2+rand.N(u.seek))
		if ctx.Err() != nil {
			return nil
		}
		if l, err := u.dialFirst(ctx, index); err == nil {
			return l
		}
	}
}

// status describes the failover list.
func (u *upstream) status(p line.Protocol) []UpstreamStatus {
	to := u.asked.Load().to
	out := make([]UpstreamStatus, len(to))
	l := u.up.Load()
	for i, a := range to {
		out[i] = UpstreamStatus{Protocol: p.String(), Address: a.String()}
		if l != nil && l.upstream == out[i].Address {
			out[i].Up, out[i].Resolved = true, l.resolved
		}
	}
	return out
}

// pause waits for d, or until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
