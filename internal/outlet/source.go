package outlet

import (
	"errors"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

// ErrDrained says that a source is closed, and that nothing is left to send.
var ErrDrained = errors.New("all is sent")

// ErrRevoked says that what the peer has not acknowledged must not leave any more.
var ErrRevoked = errors.New("what is under way must not arrive any more")

// A Source is what an outlet sends: whole lines of one protocol, for one
// destination. The outlet calls one method at a time; the source may be filled by
// others meanwhile.
//
// The source alone decides what "delivered" means for its protocol, and what of a
// session is sent again in the next. A session is
//
//	Begin (Ack | Next Wrote*)* End
//
// and offsets count the bytes that Wrote has reported since Begin.
type Source interface {
	// Begin begins a session. What is to be sent again comes first from now on.
	Begin(now time.Time, s Session)

	// Next returns what is to be written now, which stays as it is until the next
	// call of Next, Wrote or End. All of it is whole lines, but for the beginning
	// after a write that ended in the middle of one. If wait is not 0, it must have
	// left within that time.
	//
	// Without lines, wait says after which time to ask again; 0: when More says so.
	// ErrDrained says that nothing more will come, and that all of it was written.
	Next(now time.Time) (lines []byte, wait time.Duration, err error)

	// Wrote says that the kernel took the first n bytes of what Next returned: of
	// datagrams, whole lines.
	Wrote(now time.Time, n int)

	// Refuse says that the next n bytes can never be sent: whole lines that fit into no
	// datagram.
	Refuse(n int)

	// Ack says what is known of the peer. At ErrRevoked the connection is reset.
	Ack(now time.Time, peer Peer) (Due, error)

	// Repeats says whether what is in doubt when a session ends is sent again. It never
	// changes.
	Repeats() bool

	// Leave hands over what is not acknowledged, and the rest of a line of which a part was
	// written: the connection goes on beside the next session. It is called before End, where
	// nothing is sent again.
	Leave() (l Leaving, rest []byte)

	// End ends the session, which worked until then: not while it was in doubt whether the
	// peer read on.
	End(then time.Time, how Ending)

	// Expire drops what may not wait any longer. It is called while there is no
	// session, and says when to call it again: after that time, if it is not 0, or
	// when More says so; ErrDrained: nothing is left, nor will come.
	Expire(now time.Time) (again time.Duration, err error)

	// More receives when Next may have something new, or the end, to say.
	More() <-chan struct{}

	// HasBacklog says whether what Next has returned is late, or lines wait that younger
	// ones overtake: then the link is given little at a time.
	HasBacklog(now time.Time) bool

	// Lost returns how many lines have been dropped so far because they could not
	// leave.
	Lost() uint64
}

// A Leaving is what was still under way when a session was left. One goroutine uses it.
type Leaving interface {
	// Left returns for how long it may still leave our kernel; 0 or less: no longer.
	Left() time.Duration

	// Ack says how much the peer has acknowledged since the session began.
	Ack(acked uint64)

	// End says that the connection has ended.
	End()
}

// A Peer is what is known of the other side. Acked counts from Begin.
type Peer = link.Peer

// Due is what a source wants of what is under way.
type Due struct {
	// Again is after what time to call Ack again even if nothing else happens; 0: nothing
	// is in doubt.
	Again time.Duration

	// Leave is the time within which what is not acknowledged must have left; 0: there is
	// no limit.
	Leave time.Duration

	// Keep is how long the session must not be ended for its age; 0 or less: it may be now.
	Keep time.Duration
}

// A Session is what a source needs to know about a session.
type Session struct {
	// Upstream is the address, as configured, that the lines go to.
	Upstream string

	// Certain says that what was written is delivered: there is no peer that could
	// lose it.
	Certain bool
}

// An Ending is how a session ended.
type Ending uint8

// How sessions end.
const (
	// Broken: by an error, by a reset, or because we gave up. It is not known what the peer
	// has read.
	Broken Ending = iota

	// Closed: the peer closed in order, before we did.
	Closed

	// Finished: we closed in order, and the peer, which had acknowledged all, then
	// closed too.
	Finished
)
