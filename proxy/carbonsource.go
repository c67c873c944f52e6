package proxy

import (
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// When a Carbon line is delivered, and what is sent again.
const (
	// ripeAge is how long a session must have lived on after it acknowledged a line,
	// for that to be delivered.
	ripeAge = time.Second

	// youngAge is how old a session must be for what it took not to be sent again,
	// but for the replay window: a balancer may need as long to find out that it has
	// no backend.
	youngAge = 20 * time.Second

	// idleRepeats is how many times what a session took is sent again whose peer
	// then closed an idle connection.
	idleRepeats = 3

	// idleTrim is how long nothing must happen for memory to be given back.
	idleTrim = 30 * time.Second
)

// A delivery is how a Carbon queue is sent: the session, and what it was given.
type delivery struct {
	session outlet.Session
	began   time.Time // of the session
	quiet   time.Time // since when nothing was to be sent; zero: something is
	current *piece    // being written
	offset  int       // of what is left of it
}

var _ outlet.Source = (*carbonQueue)(nil)

// Begin: what the last session did not prove to have delivered, and what its peer
// may not have read, is sent again.
func (q *carbonQueue) Begin(now time.Time, s outlet.Session) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var again fifo[*piece]
	for _, list := range []*fifo[*piece]{&q.window, &q.ripening, &q.unacked, &q.again} {
		for p := list.pop(); p != nil; p = list.pop() {
			p.inBurst = false
			again.push(p)
		}
	}
	q.again = again
	q.unackedBytes, q.windowBytes, q.ripeningBytes, q.sent = 0, 0, 0, 0
	q.burst = burst{}
	q.linked = true
	q.delivery = delivery{session: s, began: now}
	notify(q.keeper)
}

func (q *carbonQueue) Next(now time.Time) (lines []byte, wait time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.current == nil {
		if q.current, wait = q.next(now); q.current == nil {
			return nil, q.pause(now, wait), q.end()
		}
		q.offset = 0
	}
	q.quiet = time.Time{}
	return q.current.bytes()[q.offset:], 0, nil
}

// end returns ErrDrained when the queue is closed, and all was sent, and delivered,
// that will be. q.mu is held.
func (q *carbonQueue) end() error {
	if q.closed && !q.isHolding() && q.behind.len()+q.named.pieces.len()+q.unacked.len()+q.ripening.len() == 0 {
		return outlet.ErrDrained
	}
	return nil
}

// pause returns when to ask again for something to send, where nothing is left now:
// memory is given back that is not needed while nothing happens. q.mu is held.
func (q *carbonQueue) pause(now time.Time, wait time.Duration) time.Duration {
	if wait > 0 || q.unacked.len() > 0 || !q.journal.CanTrim(segmentsKept) {
		return wait
	}
	if q.quiet.IsZero() {
		q.quiet = now
	}
	if left := idleTrim - now.Sub(q.quiet); left > 0 {
		return left
	}
	q.journal.Trim(segmentsKept)
	return 0
}

func (q *carbonQueue) Wrote(_ time.Time, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.offset += n; q.offset == q.current.size() {
		q.current = nil
	}
}

// Refuse is never called: no line is too long for a stream.
func (q *carbonQueue) Refuse(int) {}

func (q *carbonQueue) Ack(now time.Time, n uint64) (again time.Duration, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ack(now, n)
	return q.ripen(now), nil
}

// ripen counts as delivered what was acknowledged long enough ago, and returns when
// the next will be; 0: there is none. A peer that has acknowledged so much more that
// no kernel could hold it has read it. q.mu is held.
func (q *carbonQueue) ripen(now time.Time) time.Duration {
	for p := q.ripening.first(); p != nil; p = q.ripening.first() {
		if left := ripeAge - now.Sub(p.acked); left > 0 && !q.session.Certain && q.ripeningBytes <= max(q.limit/2, q.replay) {
			return left
		}
		q.ripening.pop()
		q.ripeningBytes -= p.size()
		if !p.proven {
			q.prove(q.session.Upstream, p)
		}
		q.keep(now, p)
	}
	return 0
}

// End: what the peer has surely read is not sent again.
func (q *carbonQueue) End(now time.Time, how outlet.Ending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	isOld := now.Sub(q.began) >= youngAge
	tookAll := q.unacked.len() == 0 && q.ripening.len() == 0
	switch {
	case q.session.Certain || tookAll && isOld && how != outlet.Broken:
		q.forget(func(*piece) bool { return true })
	case tookAll && how != outlet.Broken:
		q.forget(func(p *piece) bool { p.repeats++; return p.repeats > idleRepeats })
	}
	q.current = nil
	q.linked = false
}

// forget lets go of what was kept for the next connection. q.mu is held.
func (q *carbonQueue) forget(which func(p *piece) bool) {
	var kept fifo[*piece]
	for p := q.window.pop(); p != nil; p = q.window.pop() {
		if which(p) {
			q.windowBytes -= p.size()
			q.release(p)
		} else {
			kept.push(p)
		}
	}
	q.window = kept
}

func (q *carbonQueue) Expire(time.Time) (time.Duration, error) {
	if q.isDrained() {
		return 0, outlet.ErrDrained
	}
	return 0, nil
}

func (q *carbonQueue) More() <-chan struct{} { return q.more }
func (q *carbonQueue) HasBacklog() bool      { return q.lags() }
func (q *carbonQueue) Lost() uint64          { return q.lost() }
