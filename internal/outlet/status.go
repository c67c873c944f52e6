package outlet

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/link"
)

// isUp records that the server in use works. f.mu is held.
func (f *failover) isUp(now time.Time) {
	if f.up {
		return
	}
	e := f.used.entry
	attrs := []any{"upstream", e.address.String(), "resolved", f.used.at}
	level := slog.LevelInfo
	switch wasSaid := e.said.down.over(); {
	case wasSaid:
		attrs = append(attrs, "after", now.Sub(e.since).Round(time.Millisecond), "failures", e.failures, "lines_lost", f.lost()-e.lost)
	case f.saidUp == e || !e.said.up.isDue(now):
		level = slog.LevelDebug
		attrs = append(attrs, "last", e.reason)
	}
	if f.log.Log(context.Background(), level, "upstream up", attrs...); level == slog.LevelInfo {
		f.saidUp, e.said.up.last = e, now
	}
	f.up, e.since, e.reason, e.failures = true, now, "", 0
}

// pauses says since when the server in use has taken nothing; the zero time: it takes lines again.
func (f *failover) pauses(since time.Time, isCutOff bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.used.entry
	if since.IsZero() {
		if lasted := time.Since(f.paused); e.said.pauses.over() || lasted >= lasting {
			f.log.Info("upstream takes lines again", "upstream", e.address.String(), "resolved", f.used.at, "after", lasted.Round(time.Millisecond))
		}
	}
	f.paused, f.pause = since, "connected, but it takes nothing: stopped, or overloaded"
	if isCutOff {
		f.pause = "connected, but its host answers nothing: down, or cut off"
	}
}

// alone says that no other server can be used while the one in use pauses, if it does.
func (f *failover) alone() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.used == nil || f.paused.IsZero() {
		return
	}
	e := f.used.entry
	e.said.pauses.holds(time.Now(), "", 0, f.log, "upstream takes nothing", "upstream", e.address.String(), "resolved", f.used.at, "err", f.pause)
}

// isDown records that e failed, and logs it. f.mu is held.
func (f *failover) isDown(now time.Time, e *entry, why error, cause string) {
	if f.isUsed(e) || !slices.Contains(f.entries, e) {
		return // another server of it is in use; or another list was configured meanwhile
	}
	e.reason = sanitize(why.Error())
	if e.failures++; e.failures == 1 {
		e.lost = f.lost()
	}
	e.said.breaks.times = 0
	if e.said.down.holds(now, cause, 0, f.log, "upstream down", "upstream", e.address.String(), "err", e.reason) && f.saidUp == e {
		f.saidUp = nil
	}
}

// broke records that a session with s ended that had worked. That is logged only if the next one
// fails, or if it goes on like this. f.mu is held.
func (f *failover) broke(now time.Time, s *server, why error) {
	e := s.entry
	e.reason = sanitize(why.Error())
	if errors.Is(why, link.ErrClosed) {
		return // it was idle
	}
	e.said.breaks.over()
	e.said.breaks.holds(now, "", minBreaks, f.log, "upstream ends one session after the other", "upstream", e.address.String(), "resolved", s.at, "err", e.reason)
}

// isUsed says whether there is a session with a server of e. f.mu is held.
func (f *failover) isUsed(e *entry) bool { return f.used != nil && f.used.entry == e }

// sanitize keeps a reason on one line.
func sanitize(s string) string { return strings.Join(strings.Fields(s), " ") }

// A Status describes one address of a failover list.
type Status struct {
	Address  address.Upstream
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
	fine := "not connected yet" // why an address is not used that nothing is wrong with
	for i, e := range f.entries {
		s := Status{Address: e.address, Since: e.since, Reason: e.reason}
		if f.isUsed(e) {
			if s.Up, s.Resolved = f.up, f.used.at; !f.paused.IsZero() {
				s.Up, s.Since, s.Reason = false, f.paused, f.pause
			}
		}
		switch {
		case s.Up:
			s.Reason, fine = "", Spare
		case s.Reason == "":
			s.Reason = fine
		}
		if s.Resolved != "" && !s.Up {
			fine = "an earlier address is tried"
		}
		out[i] = s
	}
	return out
}
