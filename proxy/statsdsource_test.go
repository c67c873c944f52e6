package proxy

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership"
)

// newSource returns a source with lines of Denali's in hand.
func newSource(names Names, lines string) *statsdSource {
	s := &statsdSource{queue: newStatsDQueue(1 << 20)}
	claim, _ := names.Current()
	s.hand = newBatch(time.Now(), newRewriters(line.Rules{From: "host", To: "{name}", Names: []string{"Denali", "MtLogan"}}, claim), false)
	s.hand.buf, s.hand.lines = append(s.hand.buf, lines...), 2
	return s
}

// Of lines that have become too old while a server took nothing, the rest of one leaves
// that it has a part of: to end the connection there could end the server.
func TestRestOfALine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names := holding("Denali")
		s := newSource(names, "Denali.a:1|c\nDenali.b:1|c\n")
		s.Begin(time.Now(), outlet.Session{})
		s.Next(time.Now())
		s.Wrote(time.Now(), 5)
		sidebyside.Pass(statsdMaxAge + time.Second)
		lines, wait, err := s.Next(time.Now())
		if string(lines) != "i.a:1|c\n" || wait == 0 || err != nil {
			t.Fatalf("got %q, %v, %v; want the rest of the first line", lines, wait, err)
		}
		s.Wrote(time.Now(), len(lines))
		if lines, _, err := s.Next(time.Now()); len(lines) != 0 || err != nil {
			t.Errorf("got %q, %v; want nothing", lines, err)
		}
		if books := s.queue.account(); books.dropped[tooOld] != 1 {
			t.Errorf("%d lines too old, want 1", books.dropped[tooOld])
		}
	})
}

// The rest of a line waits while its claim is suspended, and must not leave under another.
func TestRestOfALineSuspended(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, claim := noNames(), newClaim("Denali", -time.Second)
		names.set(claim, membership.Held)
		s := newSource(names, "Denali.a:1|c\nDenali.b:1|c\n")
		s.Begin(time.Now(), outlet.Session{})
		s.Wrote(time.Now(), 5)
		if lines, wait, err := s.Next(time.Now()); len(lines) != 0 || wait == 0 || err != nil {
			t.Errorf("suspended: got %q, %v, %v; want to wait", lines, wait, err)
		}
		claimtest.Extend(claim, time.Minute)
		if lines, _, err := s.Next(time.Now()); len(lines) == 0 || err != nil {
			t.Errorf("renewed: got %q, %v", lines, err)
		}
		names.set(newClaim("MtLogan", time.Minute), membership.Held)
		if lines, _, err := s.Next(time.Now()); len(lines) != 0 || !errors.Is(err, errCut) {
			t.Errorf("under another name: got %q, %v", lines, err)
		}
	})
}

// What would have no time to leave before the horizon waits until the claim is renewed.
func TestJustBeforeTheHorizon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, claim := noNames(), newClaim("Denali", 2*statsdGuard)
		names.set(claim, membership.Held)
		s := newSource(names, "Denali.a:1|c\n")
		s.Begin(time.Now(), outlet.Session{})
		if lines, wait, err := s.Next(time.Now()); len(lines) != 0 || wait <= 0 || wait > 2*statsdGuard || err != nil {
			t.Errorf("got %q, %v, %v; want to wait", lines, wait, err)
		}
		claimtest.Extend(claim, time.Minute)
		if lines, _, err := s.Next(time.Now()); len(lines) == 0 || err != nil {
			t.Errorf("renewed: got %q, %v", lines, err)
		}
	})
}

// What is under way must have left before the horizon of its claim, which moves, and not at
// all once that is not the host's any more.
func TestUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, claim := noNames(), newClaim("Denali", 6*time.Second)
		names.set(claim, membership.Held)
		s := newSource(names, "Denali.a:1|c\nDenali.b:1|c\n")
		s.Begin(time.Now(), outlet.Session{})
		lines, _, _ := s.Next(time.Now())
		s.Wrote(time.Now(), len(lines))
		for _, valid := range []time.Duration{6 * time.Second, 10 * time.Second} { // by the system's clock
			claimtest.Extend(claim, valid)
			due, err := s.Ack(time.Now(), outlet.Peer{})
			if due.Leave > valid-statsdGuard || due.Leave < valid-time.Second || due.Again != due.Leave || err != nil {
				t.Errorf("got %+v, %v; want some %v", due, err, valid)
			}
		}
		names.set(newClaim("MtLogan", time.Minute), membership.Held)
		if _, err := s.Ack(time.Now(), outlet.Peer{}); !errors.Is(err, outlet.ErrRevoked) {
			t.Errorf("under another name: %v", err)
		}
		if due, err := s.Ack(time.Now(), outlet.Peer{Acked: uint64(len(lines))}); due != (outlet.Due{}) || err != nil {
			t.Errorf("all is acknowledged: %+v, %v", due, err)
		}
	})
}

// What a session leaves on its way, with the rest of a line, is queued until it is known whether the
// server has taken it: so the books agree with what arrives.
func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		names, claim := noNames(), newClaim("Denali", 6*time.Second)
		names.set(claim, membership.Held)
		s := newSource(names, "")
		in := newBatch(time.Now(), newRewriters(line.Rules{From: "host", To: "{name}", Names: []string{"Denali", "MtLogan"}}, claim), false)
		for _, ln := range []string{"Denali.a:1|c\n", "Denali.b:1|c\n", "Denali.c:1|c\n", "Denali.d:1|c\n"} {
			in.buf, in.lines = append(in.buf, ln...), in.lines+1
		}
		s.queue.accept(&tally{received: 4}, in)
		books := func(when string, forwarded, lost uint64, queued int) {
			t.Helper()
			b := s.queue.account()
			if b.forwarded["tcp://a:1"] != forwarded || b.dropped[sendError] != lost || b.queued != queued {
				t.Errorf("%s: %d forwarded, %d lost, %d queued; want %d, %d, %d", when, b.forwarded["tcp://a:1"], b.dropped[sendError], b.queued, forwarded, lost, queued)
			}
		}
		s.Begin(time.Now(), outlet.Session{Upstream: "tcp://a:1"})
		lines, _, _ := s.Next(time.Now())
		size := uint64(len(lines) / 4)
		s.Wrote(time.Now(), int(2*size+5))
		s.Ack(time.Now(), outlet.Peer{Acked: size})
		l, rest := s.Leave()
		s.End(time.Now(), outlet.Broken)
		if string(rest) != "i.c:1|c\n" || l.Left() < 5*time.Second {
			t.Errorf("the rest of the line is %q, and may leave for %v", rest, l.Left())
		}
		books("left", 1, 0, 3)

		s.Begin(time.Now(), outlet.Session{Upstream: "tcp://b:1"})
		if lines, _, _ := s.Next(time.Now()); string(lines) != "Denali.d:1|c\n" {
			t.Errorf("the next session gets %q", lines)
		}
		l.Ack(2*size + 5)
		books("it has taken a line", 2, 0, 2)
		names.set(newClaim("MtLogan", time.Minute), membership.Held)
		if got := l.Left(); got > 0 {
			t.Errorf("under another name, left %v", got)
		}
		l.End()
		books("its end", 2, 1, 1)
	})
}
