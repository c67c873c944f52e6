package outlet

import (
	"cmp"
	"context"
	"errors"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

const (
	// idleTime is for how long all must have been acknowledged when a peer closes,
	// for that to be no failure to read.
	idleTime = time.Second

	// doubtTime is how long a peer that has closed its side has to show that it reads
	// on.
	doubtTime = 2 * time.Second
)

var errHungUp = errors.New("closed by the server, and what it had acknowledged may be lost")

// A hangup is how the peer ended its side of a connection.
type hangup struct {
	err     error
	at      time.Time // when it did
	half    bool      // it may be reading still
	written uint64    // what was written then
}

// reason returns why the peer hung up, if it said so: a write may fail before that is read.
func (s *session) reason(ctx context.Context, why error) error {
	if !errors.Is(why, syscall.EPIPE) && !errors.Is(why, syscall.ECONNRESET) {
		return why
	}
	if s.peer.err == nil {
		s.settle(ctx, settleTime)
	}
	if errors.Is(s.peer.err, link.ErrClosed) {
		return errHungUp
	}
	return cmp.Or(s.peer.err, why)
}

// isDoubtful says whether the peer has closed its side, and has not yet shown that
// it reads all the same.
func (s *session) isDoubtful() bool { return s.peer.half && s.Acked <= s.peer.written }

// peerEnded returns why the session ends, if the peer has ended it. One that closes
// its side may read on (shutdown(2)): as long as something is under way, only its
// answer to that tells. Where nothing is, it was idle, or took nothing at all.
func (s *session) peerEnded(now time.Time) error {
	select {
	case s.peer.err = <-s.heard:
	default:
	}
	switch {
	case s.peer.err == nil:
		return nil
	case s.peer.half:
		if s.isDoubtful() && now.Sub(s.peer.at) >= doubtTime && now.Sub(s.wrote) >= doubtTime {
			return errHungUp
		}
		return nil
	}
	s.peer.at = now
	if !errors.Is(s.peer.err, link.ErrClosed) {
		return s.peer.err
	}
	if err := s.collect(now); err != nil {
		return err
	}
	isIdle := s.isAcked() && now.Sub(s.lastAck) >= idleTime
	if s.written == 0 {
		lines, _, _ := s.source.Next(now)
		isIdle = len(lines) == 0
	}
	if isIdle {
		return link.ErrClosed
	}
	s.peer.half, s.peer.written = true, s.written
	return nil
}
