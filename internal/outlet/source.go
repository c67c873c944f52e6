package outlet

import "time"

// A Source is what an outlet sends: whole lines of one protocol, for one
// destination. The outlet's goroutine calls it, one method at a time; it may be
// filled by others meanwhile.
//
// The source alone decides what "delivered" means for its protocol, and what of a
// session is sent again in the next. A session is
//
//	Begin (Next Wrote* | Ack)* End
//
// and offsets count the bytes that Wrote has reported since Begin.
type Source interface {
	// Begin begins a session with the server at upstream, as configured. What is
	// to be sent again comes first from now on.
	Begin(now time.Time, upstream string)

	// Next returns what is to be written now, which stays as it is until the next
	// call of Next, Wrote or End. All of it is whole lines, but for the beginning
	// after a write that ended in the middle of one.
	//
	// Without lines, wait says after which time to ask again; 0: when More says so.
	// ErrDrained says that nothing more will come, and that all of it was written.
	Next(now time.Time) (lines []byte, wait time.Duration, err error)

	// Wrote says that the kernel took the first n bytes of what Next returned. In
	// datagrams it took whole lines. What is left of them, Next may return again.
	Wrote(now time.Time, n int)

	// Ack says that the peer's kernel has acknowledged the first n bytes of the
	// session; where nothing acknowledges, n is what our kernel took. It returns
	// after which time it wants to be told again though nothing else happens; 0:
	// nothing is in doubt.
	Ack(now time.Time, n uint64) (again time.Duration)

	// End ends the session.
	End(now time.Time, how Ending)

	// More receives when Next may have something new, or the end, to say.
	More() <-chan struct{}

	// HasBacklog says whether lines wait that younger ones go before: the kernel
	// is given little then that it cannot send at once.
	HasBacklog() bool
}

// An Ending is how a session ended.
type Ending uint8

// How sessions end.
const (
	// Broken: by an error, by a reset, or by our giving up. What the peer has read
	// is not known.
	Broken Ending = iota

	// Closed: the peer closed in order, before we did.
	Closed

	// Finished: we closed in order, and the peer, which had acknowledged all, then
	// closed too.
	Finished
)
