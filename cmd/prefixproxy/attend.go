package main

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"

	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// attendEvery is how long it takes at most until systemd knows that an upstream went up or down.
const attendEvery = 5 * time.Second

// stuckAfter is how long a loop may work on one thing; a request to etcd or to a server takes 20 s
// at most.
const stuckAfter = 30 * time.Second

// attend sends systemd our status whenever it changes, and feeds its watchdog as long as none of
// our loops is stuck, until ctx ends. /healthz tells others the same.
func (d *daemon) attend(ctx context.Context) {
	every := attendEvery
	if limit := d.tell.Watchdog(); limit > 0 {
		every = min(every, limit)
	}
	said := ""
	loops := pulse.Watch{Limit: stuckAfter}
	for {
		changed := d.holder.Changed()
		if line := d.statusLine(); line != said {
			said = line
			d.tell.Send("STATUS=" + line)
		}
		if loops.Stuck(time.Now(), append(d.proxy.Loops(), d.holder)) == nil {
			d.health.Store(time.Now())
			d.tell.Send(sd.SdNotifyWatchdog)
		}
		select {
		case <-changed:
		case <-d.reloads.changed:
		case <-time.After(retry.ToBeat(every)):
		case <-ctx.Done():
			return
		}
	}
}

// A health is the time at which the loops were last seen running; the zero value is healthy.
type health struct{ atomic.Value }

// Alive reports whether that was recent.
func (h *health) Alive() bool {
	seen, ok := h.Load().(time.Time)
	return !ok || time.Since(seen) < stuckAfter
}

// statusLine returns what systemctl status shows: the name, the state, the upstreams.
func (d *daemon) statusLine() string {
	claim, ok := d.holder.Current()
	line := "no name: " + string(d.holder.State())
	switch {
	case ok:
		line = claim.Name() + " held"
	case claim != nil:
		line = claim.Name() + " " + string(membership.Suspended)
	}
	for _, u := range d.proxy.Status().Upstreams {
		line += "; " + upstreamLine(u)
	}
	if d.reloads.refused.Load() {
		line += "; the last reload was refused"
	}
	return strings.ReplaceAll(line, "\n", " ")
}

// upstreamLine returns the state of an upstream: "carbon main tcp://graphite:2003 up".
func upstreamLine(u proxy.UpstreamStatus) string {
	to, state := u.Protocol, "down"
	if u.Destination != "" {
		to += " " + u.Destination
	}
	switch {
	case u.Up:
		state = "up"
	case u.IsSpare():
		state = "not in use"
	}
	return to + " " + u.Address + " " + state
}

// sayEnd logs what became of the lines between the signal to stop (before) and the end (after).
func sayEnd(log *slog.Logger, before, after proxy.Status) {
	a, droppedBefore := totals(before)
	b, dropped := totals(after)
	dropped -= droppedBefore
	level := slog.LevelInfo
	if dropped > 0 {
		level = slog.LevelWarn
	}
	log.Log(context.Background(), level, "stopped",
		"drained", b.Forwarded-a.Forwarded, "spooled", b.Spooled, "in_memory", b.Queued, "dropped", dropped)
}

// totals adds up the lines of StatsD and of all destinations of Carbon.
func totals(s proxy.Status) (sum proxy.Books, dropped uint64) {
	all := []proxy.Books{s.Lines["statsd"]}
	for _, d := range s.Destinations {
		all = append(all, d.Lines)
	}
	for _, b := range all {
		sum.Forwarded += b.Forwarded
		sum.Spooled += b.Spooled
		sum.Queued += b.Queued
		for _, n := range b.Dropped {
			dropped += n
		}
	}
	return sum, dropped
}
