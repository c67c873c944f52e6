package admin

import (
	"fmt"
	"slices"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// notReady returns why the daemon cannot do its whole job now; nothing when it
// can: a name is held, and one upstream of each protocol that listens is up.
func (s Status) notReady() []string {
	var reasons []string
	if s.State != membership.Held {
		reasons = append(reasons, fmt.Sprintf("no name is held: %s", s.State))
	}
	for _, protocol := range listening(s.Listeners) {
		if !slices.ContainsFunc(s.Upstreams, func(u proxy.UpstreamStatus) bool { return u.Protocol == protocol && u.Up }) {
			reasons = append(reasons, fmt.Sprintf("no %s upstream is up", protocol))
		}
	}
	return reasons
}

// listening returns the protocols that have a listener, in order.
func listening(listeners []proxy.ListenerStatus) []string {
	var protocols []string
	for _, l := range listeners {
		protocols = append(protocols, l.Protocol)
	}
	slices.Sort(protocols)
	return slices.Compact(protocols)
}
