package outlet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/link"
)

// maxKnown is how many servers of a name are remembered.
const maxKnown = 64

// A failover is the list of addresses: what is known of each, and of every server
// that its name resolves to. Any goroutine may use it.
type failover struct {
	log  *slog.Logger
	lost func() uint64 // lines dropped so far because they could not leave

	mu      sync.Mutex
	entries []*entry
	tls     link.TLS
	used    *server   // with which there is a session; nil: none
	up      bool      // that works
	paused  time.Time // since when it has taken nothing; zero: it takes
	pause   string    // what is known of that
	saidUp  *entry    // the last that was logged as up, if it was not logged as down since
}

// An entry is an address of the list, as it is configured.
type entry struct {
	address address.Upstream
	name    server             // its name rests, as a server does, when it does not resolve, or only to servers that rest
	answer  []*server          // what it resolved to last; nil: to nothing
	unheard bool               // name servers didn't answer since
	servers map[string]*server // by resolved address: those, and others that have failed

	since    time.Time // it is up, or not
	reason   string    // why it isn't used; "": none is known
	failures int       // since it was last up
	lost     uint64    // lines before the first of them

	said said
}

// reset makes the list that of cfg. What is known of addresses that stay, stays; unless
// they are to be spoken with in another way.
func (f *failover) reset(now time.Time, cfg *Config) {
	f.mu.Lock()
	defer f.mu.Unlock()
	entries := make([]*entry, len(cfg.To))
	for i, a := range cfg.To {
		isKnown := func(e *entry) bool { return e.address == a && (a.Network != "tls" || cfg.TLS == f.tls) }
		if at := slices.IndexFunc(f.entries, isKnown); at >= 0 {
			entries[i] = f.entries[at]
			continue
		}
		e := &entry{address: a, servers: map[string]*server{}, since: now}
		e.name.entry = e
		entries[i] = e
	}
	f.entries, f.tls = entries, cfg.TLS
}

// list returns the names of the first n entries, in the order in which to try them: who has failed
// less often comes first.
func (f *failover) list(n int) []*server {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*server, min(n, len(f.entries)))
	for i := range list {
		list[i] = &f.entries[i].name
	}
	slices.SortStableFunc(list, func(a, b *server) int { return a.strikes - b.strikes })
	return list
}

// of returns what is known of s.
func (f *failover) of(s *server) server {
	f.mu.Lock()
	defer f.mu.Unlock()
	return *s
}

// mayTry says whether s, which may be a name, does not rest, and is not in use; and for how long to
// try it.
func (f *failover) mayTry(now time.Time, s *server) (limit time.Duration, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return doubled(minAttempt, maxAttempt, s.strikes+1), s != f.used && !s.rests(now)
}

// resolved says what the name of e resolves to, and returns the servers. It rests until one
// of them can be used that is not, or for maxRest. Of others, those are remembered that have failed: a name
// may have another answer each time.
func (f *failover) resolved(now time.Time, e *entry, ats []string) []*server {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e.answer == nil || e.unheard {
		e.name.strikes, e.unheard = 0, false
	}
	e.answer = make([]*server, 0, len(ats))
	for _, at := range ats {
		s := e.servers[at]
		if s == nil {
			s = &server{entry: e, at: at}
			e.servers[at] = s
		}
		if !slices.Contains(e.answer, s) {
			e.answer = append(e.answer, s)
		}
	}
	for at, s := range e.servers {
		if !slices.Contains(e.answer, s) && s != f.used && (s.strikes == 0 || len(e.servers) > maxKnown) {
			delete(e.servers, at)
		}
	}
	e.name.rest = now.Add(maxRest)
	for _, s := range e.answer {
		if s != f.used && s.rest.Before(e.name.rest) {
			e.name.rest = s.rest
		}
	}
	return e.answer
}

// unresolved says that the name of e does not resolve, and returns the servers to try: those of the
// last answer, if it may still hold.
func (f *failover) unresolved(now time.Time, e *entry, why error) []*server {
	f.mu.Lock()
	defer f.mu.Unlock()
	var dns *net.DNSError
	if e.unheard = !errors.As(why, &dns) || !dns.IsNotFound; !e.unheard {
		e.answer = nil
	}
	e.name.strike(now)
	f.isDown(now, e, why, cause(why))
	return e.answer
}

// next returns after which time a server is to be tried although all rest; 0: now, and it
// rests no more. Negative: all are under way, or there is none.
func (f *failover) next(now time.Time, underWay map[*server]bool) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	var first *server
	var at time.Time
	for _, e := range f.entries {
		servers := e.answer
		if servers == nil {
			servers = []*server{&e.name}
		}
		for _, s := range servers {
			if underWay[s] || underWay[&e.name] {
				continue
			}
			t := s.retry
			if len(underWay) > 0 && (s.works || s.lived > 0) { // its session failed: who takes long to connect to may do better
				t = t.Add(max(0, min(s.rest.Sub(t), minYoungRest)))
			}
			if t.Before(e.name.retry) {
				t = e.name.retry
			}
			if first == nil || t.Before(at) {
				first, at = s, t
			}
		}
	}
	switch {
	case first == nil:
		return -1
	case at.After(now):
		return at.Sub(now)
	}
	first.rest, first.entry.name.rest = time.Time{}, time.Time{}
	return 0
}

// begin says that a session with s has begun, and whether s, or its name, has failed before: then it
// must prove itself.
func (f *failover) begin(now time.Time, s *server) (hasFailed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.used, f.paused = s, time.Time{}
	s.entry.said.pauses.over()
	s.begin(now)
	hasFailed = s.strikes > 0 || s.entry.name.strikes > 0
	if !hasFailed {
		f.isUp(now)
	}
	return hasFailed
}

// proven says that a session with s has lasted.
func (f *failover) proven(now time.Time, s *server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.proven()
	f.isUp(now)
}

// isAlone says whether there is no other server than s.
func (f *failover) isAlone(s *server) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.entries) == 1 && len(s.entry.answer) < 2
}

// wantsSpares says whether others may soon be needed than s, which has yet to prove itself: where
// one has failed, the next often does, too. A list that works is left alone.
func (f *failover) wantsSpares(s *server) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return !s.works && slices.ContainsFunc(f.entries, func(e *entry) bool {
		return e.name.strikes > 0 || slices.ContainsFunc(e.answer, func(s *server) bool { return s.strikes > 0 })
	})
}

// asked says whether s reads, and when to ask it again.
func (f *failover) asked(s *server, reads bool, again time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.silent, s.ask = !reads, again
}

// left says that the session ended, whose server did not fail.
func (f *failover) left(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.unused(now)
}

// unused records that the session has ended. f.mu is held.
func (f *failover) unused(now time.Time) {
	if f.up {
		f.used.entry.since = now
	}
	f.used.entry.name.rest = time.Time{}
	f.used, f.up = nil, false
}

// failed says that a session on c failed that had worked for so long; or c did, which was held.
func (f *failover) failed(now time.Time, c *connection, worked time.Duration, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used == c.server {
		f.unused(now)
	}
	if cause := c.server.failed(now, c, worked, why); cause != "" {
		f.isDown(now, c.server.entry, why, cause)
	} else {
		f.broke(now, c.server, why)
	}
}

// unreachable says that no connection to s could be made.
func (f *failover) unreachable(now time.Time, s *server, why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if errors.Is(why, link.ErrUnanswered) {
		s.small = !s.small
	}
	s.strike(now)
	f.isDown(now, s.entry, why, cause(why))
}

// late says that s, a server or a name, has not answered yet, and the next is tried. A name may need
// a minute to fail.
func (f *failover) late(now time.Time, s *server) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch e := s.entry; {
	case s.isName():
		f.isDown(now, e, fmt.Errorf("look up upstream %s: no answer within %v", e.address, resolveTime), "late")
	case !f.isUsed(e): // else it is by way of another server
		e.reason = fmt.Sprintf("dial upstream %s: no connection within %v", e.address, nextAfter)
	}
}
