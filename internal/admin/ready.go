package admin

import (
	"fmt"
	"slices"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// notReady returns why the daemon can't do its whole job now: no name is held, or no upstream is up
// of a protocol that has a listener.
func (s Status) notReady() []string {
	var reasons []string
	if s.State != membership.Held {
		reasons = append(reasons, fmt.Sprintf("no name is held: %s", s.State))
	}
	for _, protocol := range s.protocols() {
		if !slices.ContainsFunc(s.Upstreams, func(u proxy.UpstreamStatus) bool { return u.Protocol == protocol && u.Up }) {
			reasons = append(reasons, fmt.Sprintf("no %s upstream is up", protocol))
		}
	}
	return reasons
}

// protocols returns the protocols that have a listener, and Carbon if StatsD is counted here, in
// order.
func (s Status) protocols() (all []string) {
	for _, l := range s.Listeners {
		all = append(all, l.Protocol)
	}
	if s.counts() {
		all = append(all, "carbon")
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// counts reports whether StatsD is counted here; its points go where Carbon goes.
func (s Status) counts() bool { return slices.ContainsFunc(s.Upstreams, isCounting) }

func isCounting(u proxy.UpstreamStatus) bool { return u.Address == "carbon:" }
