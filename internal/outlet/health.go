package outlet

import (
	"errors"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

// How long a server rests that failed.
const (
	minRest    = 100 * time.Millisecond // doubling with each failure, to
	maxRest    = 30 * time.Second
	maxRetry   = 5 * time.Second // where all others rest, too
	minUDPRest = time.Minute     // silence is no proof: this long, doubling to
	maxUDPRest = 10 * time.Minute

	minDeceitRest = 30 * time.Second // of one that only accepts connections
	minYoungRest  = 10 * time.Second // of one whose sessions end soon: to look up another may take 5 s

	// A server is asked whether it reads when a session is askAfter old, and then every
	// askInterval; or, where it doesn't answer, though it does, patientInterval.
	askAfter        = 2 * time.Second
	askInterval     = time.Minute
	patientInterval = 10 * time.Minute

	// provenAge is how long a session must have lasted for its server to work.
	provenAge = 5 * time.Second

	// A session that broke, or was closed when it was idle, before such an age proves little:
	// a balancer may need as long to find that it has no backend (nginx a minute, HAProxy 20 s,
	// four attempts of 5 s), and idle connections are not closed that soon.
	brokenAge = 2 * time.Minute
	closedAge = 21 * time.Second
)

// A server is one address that a name resolved to, and what is known of its health. The name itself
// has one, too: it is looked up, and rests while it resolves to nothing, or only to servers that rest.
//
//	          session begins           it has lasted 5 s
//	unused ─────────────────→ on trial ────────────────→ works
//	 ↑  │                        │                         │
//	 │  │ no connection          │ failed                  │ failed
//	 │  ↓                        ↓                         ↓
//	 └─ rests ←──────────────────┴─────────────────────────┘
//
//	for 0.1 s to 30 s, by strikes (by UDP, where silence is no proof, a minute to ten)
//	    30 s to 10 min, by deceits, where it takes or reads nothing
//	    10 s to 10 min, by deceits, where it was taken back, and failed soon, though it worked
//	    10 s, where it had worked: another may have a backend
//
// Where all rest, the one is used whose retry comes first.
type server struct {
	entry   *entry
	at      string
	works   bool          // a session has lasted, and nothing failed since
	strikes int           // failures, one after the other
	deceits int           // of them, though it could be connected to
	lived   time.Duration // the longest connection of those that failed before it worked
	rest    time.Time     // until then it is used only if no other can be
	retry   time.Time     // until then it is not tried
	small   bool          // packets to it: a network on the way may drop others, and not say so
	silent  bool          // it read nothing, when it was last used or asked
	ask     time.Time     // until then it is not asked whether it reads
}

// isName says whether s stands for the name of its entry.
func (s *server) isName() bool { return s == &s.entry.name }

// rests says whether the server is left alone now.
func (s *server) rests(now time.Time) bool { return now.Before(s.rest) }

// begin records that a session has begun. That the server read nothing before may be over.
func (s *server) begin(now time.Time) {
	if at := now.Add(askAfter); s.ask.Before(at) {
		s.ask = at
	}
	s.silent = false
}

// proven records that a session has lasted.
func (s *server) proven() {
	s.works, s.strikes, s.lived, s.rest = true, 0, 0, time.Time{}
	s.entry.name.strikes = 0
}

// failed records that a session on c failed after it had worked for so long, and returns what is
// wrong with the server; "": nothing yet. One that stalled, or that failed soon though its connection had
// been idle for a while (probed), shows that to accept a connection proves nothing here: it rests as
// long as one that says nothing.
func (s *server) failed(now time.Time, c *connection, worked time.Duration, why error) (cause string) {
	isCutOff := errors.Is(why, errCutOff)
	if !c.proven && (isCutOff || errors.Is(why, errGone) || errors.Is(why, syscall.ETIMEDOUT)) {
		s.small = !s.small // that it could be connected to takes small packets only
	}
	isStalled := isCutOff || errors.Is(why, errStalled)
	s.silent, s.ask = isStalled, time.Time{}
	isYoung := worked < brokenAge
	if errors.Is(why, link.ErrClosed) {
		isYoung = worked < closedAge // it was idle
	}
	works, deceives := c.proven && !isStalled, isStalled || c.probed && isYoung
	if works && !deceives && !s.entry.address.IsDatagram() {
		if isYoung {
			s.retry, s.rest = now, now.Add(minYoungRest) // another may have a backend, and take a while to be found
		}
		return ""
	}
	if !works {
		s.lived = max(s.lived, now.Sub(c.began))
	}
	s.strike(now)
	if deceives {
		if s.deceits++; worked >= maxUDPRest {
			s.deceits = 1
		}
		rest := minDeceitRest
		if works {
			rest = minYoungRest
		}
		s.rest = now.Add(doubled(rest, maxUDPRest, s.deceits))
	}
	if isStalled {
		return "stalled"
	}
	return "session"
}

// strike counts a failure of s; and one of its name, if that has no other server to offer.
func (s *server) strike(now time.Time) {
	s.works = false
	s.strikes++
	retry := doubled(minRest, maxRetry, s.strikes)
	s.retry = now.Add(retry/2 + rand.N(retry/2+1)) // so that a fleet does not return as one
	e := s.entry
	switch {
	case s.isName():
		s.rest = s.retry
		return
	case e.address.Network == "udp" && e.address.Health == 0:
		s.rest = now.Add(doubled(minUDPRest, maxUDPRest, s.strikes))
	default:
		s.rest = now.Add(doubled(minRest, maxRest, s.strikes))
	}
	if !slices.ContainsFunc(e.answer, func(s *server) bool { return !s.rests(now) }) {
		e.name.strike(now)
	}
}

// doubled returns first, doubled with each of n after the first one.
func doubled(first, most time.Duration, n int) time.Duration {
	return min(first<<min(n-1, 20), most)
}
