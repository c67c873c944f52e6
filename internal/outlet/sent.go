package outlet

import "time"

const (
	// lookEvery is how often acknowledgements are asked for while there is much to
	// write.
	lookEvery = 2 * time.Millisecond

	// firstLook is when acknowledgements are asked for, after the last write; the
	// next looks come later and later, up to lastLook. A peer may put off its
	// acknowledgement by 40 ms.
	firstLook = 50 * time.Millisecond
	lastLook  = time.Second
)

// sent is what was written to a connection, and what became of it.
type sent struct {
	written uint64 // bytes that our kernel took
	Peer           // what is known of the other side
	mid     bool   // written ends in the middle of a line
	blocked bool   // the last write was in vain

	wrote    time.Time     // when something was last written
	lastAck  time.Time     // when something was last seen to be acknowledged
	progress time.Time     // that, or when nothing was to be
	looked   time.Time     // when it was last asked what is
	pause    time.Duration // until the next look
}

func newSent(now time.Time) sent { return sent{lastAck: now, progress: now, pause: firstLook} }

// took takes note of what a write took.
func (s *sent) took(now time.Time, lines []byte) {
	n := len(lines)
	if s.blocked = n == 0; s.blocked {
		return
	}
	s.written, s.wrote, s.pause = s.written+uint64(n), now, firstLook
	s.mid = lines[n-1] != '\n'
}

// saw takes note of what is known of the peer.
func (s *sent) saw(now time.Time, peer Peer) {
	s.looked = now
	if peer.Acked > s.Acked {
		s.progress, s.lastAck, s.pause = now, now, firstLook
	}
	peer.Acked = max(peer.Acked, s.Acked)
	s.Peer = peer
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
