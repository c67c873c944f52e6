package outlet

import (
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"
)

// How long a server rests that failed.
const (
	minRest    = 100 * time.Millisecond // doubling with each failure, to
	maxRest    = 30 * time.Second
	maxRetry   = 5 * time.Second // where all others rest, too
	minUDPRest = time.Minute     // silence is no proof: this long, doubling to
	maxUDPRest = 10 * time.Minute

	minStallRest = 30 * time.Second

	// provenAge is how long a session must have lasted for its server to work.
	provenAge = 5 * time.Second
)

// A failover is the list of addresses: what is known of each, and of every server
// that its name resolves to. Any goroutine may use it.
type failover struct {
	log  *slog.Logger
	lost func() uint64 // lines dropped so far because they could not leave

	mu      sync.Mutex
	entries []*entry
}

// An entry is an address of the list, as configured.
type entry struct {
	address Address
	servers map[string]*server // by resolved address; "": the name, which does not resolve

	server   *server   // in use; nil: none
	up       bool      // it works
	since    time.Time // it is up, or not
	reason   string    // why it isn't used; "": none is known
	failures int       // since it was last up
	lost     uint64    // lines before the first of them
}

// A server is one address that a name resolved to.
type server struct {
	entry   *entry
	at      string
	strikes int       // failures, one after the other
	stalls  int       // of them, that it took nothing
	known   bool      // a session with it has lasted, and it has not failed since
	rest    time.Time // not used before, while there is another
	retry   time.Time // not tried before
	paused  time.Time // since when a session that goes on has taken nothing; zero: it takes
}

// reset makes the list that of to. What is known of addresses that stay, stays.
func (f *failover) reset(now time.Time, to []Address) {
	f.mu.Lock()
	defer f.mu.Unlock()
	old := map[Address]*entry{}
	for _, e := range f.entries {
		old[e.address] = e
	}
	f.entries = make([]*entry, len(to))
	for i, a := range to {
		if f.entries[i] = old[a]; f.entries[i] == nil {
			f.entries[i] = &entry{address: a, servers: map[string]*server{}, since: now}
		}
	}
}

// list returns the entries.
func (f *failover) list() []*entry {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.entries
}

// isResting says whether the server at an address, or "" for its name, is not to
// be used now.
func (f *failover) isResting(now time.Time, e *entry, at string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := e.servers[at]
	return s != nil && now.Before(s.rest)
}

// resolved says what the name of e resolves to, and returns the servers. Others
// are forgotten.
func (f *failover) resolved(e *entry, ats []string) []*server {
	f.mu.Lock()
	defer f.mu.Unlock()
	known, list := e.servers, make([]*server, 0, len(ats))
	e.servers = make(map[string]*server, len(ats))
	for _, at := range ats {
		if e.servers[at] != nil {
			continue
		}
		s := known[at]
		if s == nil {
			s = &server{entry: e, at: at}
		}
		e.servers[at] = s
		list = append(list, s)
	}
	return list
}

// next returns when a server is to be tried although all rest, and makes it the
// one that is.
func (f *failover) next(now time.Time) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	var first *server
	for _, e := range f.entries {
		for _, s := range e.servers {
			if first == nil || s.retry.Before(first.retry) {
				first = s
			}
		}
	}
	if first == nil {
		return now
	}
	first.rest = time.Time{}
	return first.retry
}

// othersWait says whether a server other than s could be used now.
func (f *failover) othersWait(now time.Time, s *server) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range f.entries {
		if e != s.entry && len(e.servers) == 0 {
			return true // it was never tried
		}
		for _, other := range e.servers {
			if other != s && !now.Before(other.rest) {
				return true
			}
		}
	}
	return false
}

// isKnown says whether s has worked, and has not failed since.
func (f *failover) isKnown(s *server) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.known
}

// begin says that a session with s has begun. It returns whether s is on trial:
// it has failed before, and must prove itself.
func (f *failover) begin(now time.Time, s *server) (trial bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.entry.server, s.paused = s, time.Time{}
	if s.strikes == 0 {
		f.isUp(now, s.entry)
	}
	return s.strikes > 0
}

// proven says that a session with s has lasted.
func (f *failover) proven(now time.Time, s *server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.strikes, s.rest, s.known = 0, time.Time{}, true
	f.isUp(now, s.entry)
}

// isUp takes note that e works. f.mu is held.
func (f *failover) isUp(now time.Time, e *entry) {
	if e.up {
		return
	}
	attrs := []any{"upstream", e.address.String(), "resolved", e.server.at}
	switch {
	case e.failures > 0:
		f.log.Info("upstream up", append(attrs, "after", now.Sub(e.since).Round(time.Millisecond),
			"failures", e.failures, "lines_lost", f.lost()-e.lost)...)
	case e.reason != "": // it ended a session that had lasted, and takes the next at once
		f.log.Debug("upstream up", append(attrs, "last", e.reason)...)
	default:
		f.log.Info("upstream up", attrs...)
	}
	e.up, e.since, e.reason, e.failures = true, now, "", 0
}

// pauses says that s has taken nothing since a moment, or takes again: the zero one. Its
// session goes on.
func (f *failover) pauses(s *server, since time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	attrs := []any{"upstream", s.entry.address.String(), "resolved", s.at}
	if since.IsZero() {
		f.log.Info("upstream takes lines again", append(attrs, "after", time.Since(s.paused).Round(time.Millisecond))...)
	} else {
		f.log.Warn("upstream takes nothing, though its host answers", attrs...)
	}
	s.paused = since
}

// left says that a session with s ended though s did not fail.
func (f *failover) left(now time.Time, s *server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := s.entry
	e.server = nil
	if e.up {
		e.up, e.since = false, now
	}
}

// stalled says that s took nothing. An open connection is no proof that it takes
// lines again, so that it rests as long as a server that says nothing.
func (f *failover) stalled(now time.Time, s *server, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.entry.server = nil
	s.strike(now)
	s.stalls++
	s.rest = now.Add(doubled(minStallRest, maxUDPRest, s.stalls))
	f.isDown(now, s.entry, true, why)
}

// failed says that s failed: a session that had worked for so long, or an attempt.
// certain says that it is worth no other attempt at once, however long it worked.
func (f *failover) failed(now time.Time, s *server, worked time.Duration, certain bool, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := s.entry
	if e.server == s {
		e.server = nil
	}
	if worked >= provenAge {
		s.strikes = 0
	}
	if worked < provenAge || certain {
		s.strike(now)
	}
	f.isDown(now, e, s.strikes > 0, why)
}

// strike counts a failure.
func (s *server) strike(now time.Time) {
	s.strikes++
	s.known = false
	retry := doubled(minRest, maxRetry, s.strikes)
	s.retry = now.Add(retry/2 + rand.N(retry/2+1)) // so that a fleet does not return as one
	if a := s.entry.address; a.Network == "udp" && a.Health == 0 {
		s.rest = now.Add(doubled(minUDPRest, maxUDPRest, s.strikes))
	} else {
		s.rest = now.Add(doubled(minRest, maxRest, s.strikes))
	}
}

// doubled returns first, doubled with each of n after the first one.
func doubled(first, most time.Duration, n int) time.Duration {
	return min(first<<min(n-1, 20), most)
}

// unresolved says that the name of e does not resolve.
func (f *failover) unresolved(now time.Time, e *entry, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := e.servers[""]
	if s == nil {
		s = &server{entry: e}
		e.servers = map[string]*server{"": s}
	}
	s.strikes++
	s.retry = now.Add(doubled(minRest, maxRetry, s.strikes))
	s.rest = s.retry
	f.isDown(now, e, true, why)
}

// isDown takes note that e failed. It is said once; where a session ended that had
// worked, only if the next one fails. f.mu is held.
func (f *failover) isDown(now time.Time, e *entry, tell bool, why error) {
	e.reason = sanitize(why.Error())
	if e.up {
		e.up, e.since = false, now
	}
	if !tell {
		return
	}
	if e.failures++; e.failures == 1 {
		e.lost = f.lost()
		f.log.Warn("upstream down", "upstream", e.address.String(), "err", e.reason)
	}
}

// sanitize keeps a reason on one line.
func sanitize(s string) string { return strings.Join(strings.Fields(s), " ") }

// A Status describes one address of a failover list.
type Status struct {
	Address  Address
	Resolved string    // the server in use; "": none
	Up       bool      // it is in use, and works
	Since    time.Time // it is up, or not
	Reason   string    // why it is not used; "" while up
}

// Spare is why an address is not used that nothing is wrong with.
const Spare = "an earlier address works"

// status describes the list.
func (f *failover) status() []Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Status, len(f.entries))
	inUse := false
	for i, e := range f.entries {
		s := Status{Address: e.address, Up: e.up, Since: e.since, Reason: e.reason}
		if e.server != nil {
			s.Resolved = e.server.at
			if !e.server.paused.IsZero() {
				s.Up, s.Since, s.Reason = false, e.server.paused, "connected, but it takes nothing: stopped, or overloaded"
			}
		}
		switch {
		case s.Up:
			s.Reason = ""
		case s.Reason == "" && inUse:
			s.Reason = Spare
		case s.Reason == "":
			s.Reason = "not connected yet"
		}
		inUse = inUse || s.Up
		out[i] = s
	}
	return out
}
