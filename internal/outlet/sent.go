package outlet

import (
	"errors"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

const (
	// lookEvery is how often acknowledgements are asked for while there is much to
	// write.
	lookEvery = 10 * time.Millisecond

	// firstLook is when acknowledgements are asked for, after the last write; the
	// next looks come later and later, up to lastLook. A peer may put off its
	// acknowledgement by 40 ms.
	firstLook = 50 * time.Millisecond
	lastLook  = time.Second

	// fullTime is how long at once a peer must have had no room for its kernel to be asked whether it
	// has: half of the least that ours waits before it does (TCP_RTO_MIN), since looks come at any time.
	fullTime = 100 * time.Millisecond

	// goneAfter is how long a peer must have answered nothing to be gone.
	goneAfter = 15 * time.Second
)

var errGone = errors.New("the server's host answers no more")

// sent is what was written to a connection, and what became of it.
type sent struct {
	written uint64 // bytes that our kernel took
	Peer           // what is known of the other side
	mid     bool   // written ends in the middle of a line
	blocked bool   // the last write was in vain
	worn    bool   // the peer had no room for a while, and may be given up too soon the next time

	wrote    time.Time     // when something was last written
	lastAck  time.Time     // when something was last seen to be acknowledged
	progress time.Time     // that, or when nothing was to be
	looked   time.Time     // when it was last asked what is
	pause    time.Duration // until the next look

	within time.Duration // in which what was written must have left
	gone   time.Time     // since when the peer looks gone; zero: it doesn't
}

func newSent(now time.Time) sent {
	return sent{lastAck: now, progress: now, pause: firstLook, within: link.AskTime}
}

// took takes note of what a write took.
func (s *sent) took(now time.Time, lines []byte) {
	n := len(lines)
	if s.blocked = n == 0; s.blocked {
		return
	}
	s.written, s.wrote, s.pause = s.written+uint64(n), now, firstLook
	s.mid = lines[n-1] != '\n'
}

// look asks what is known of the peer.
//
// How long the kernel goes on with what it does not acknowledge is bounded, counted from
// when it took no more. That is moved on while we live: so a peer that answers that it has
// no room is never given up, and the kernel asks it again within the time (without, it would
// wait for up to two minutes); but when we are gone, nothing leaves after that time.
func (s *sent) look(now time.Time, l link.Link) error {
	peer, err := l.Look()
	s.looked = now
	if peer.Acked > s.Acked {
		s.progress, s.lastAck, s.pause = now, now.Add(-peer.Heard), firstLook
	}
	peer.Acked = max(peer.Acked, s.Acked)
	s.worn = s.worn || peer.Full-s.Full >= fullTime
	s.Peer = peer
	stands := s.stands(now)
	if err == nil && !s.isAcked() {
		err = l.Bound(stands + s.within - min(s.within/4, time.Second)) // the kernel counts from when it found out
	}
	switch {
	case err != nil:
		return err
	case stands < goneAfter || s.Silence < goneAfter:
		s.gone = time.Time{}
	case s.gone.IsZero():
		s.gone = now // it may have been asked just now
	case now.Sub(s.gone) >= time.Second:
		return errGone
	}
	return nil
}

// isAcked says whether the peer's kernel has all.
func (s *sent) isAcked() bool { return s.Acked == s.written }

// lookAgain returns when to look again, if nothing happens: later each time.
func (s *sent) lookAgain() time.Duration {
	pause := s.pause
	s.pause = min(2*pause, lastLook)
	return pause
}

// stands returns for how long nothing that was to be taken has been.
func (s *sent) stands(now time.Time) time.Duration {
	if s.isAcked() && !s.blocked {
		s.progress = now
	}
	return now.Sub(s.progress)
}
