package admin

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// An issue is something that people should know about or act on.
type issue struct {
	What  string
	Since time.Time // zero: not known
	Cause string    // "" if What says it
	Means string
	Do    string // "" if nothing can be done
	Mild  bool   // it need not wake anybody
}

// nearBound is how full a queue may be before people should know.
const nearBound = 0.8

// issues returns what is wrong, the worst first; then is when the last minute began.
func (s *Server) issues(v view, then sample) (all []issue) {
	all = s.nameIssues(v)
	for _, r := range v.Rates {
		all = append(all, v.upstreamIssues(r.Protocol)...)
	}
	for _, b := range v.Bounds {
		all = append(all, v.boundIssues(b)...)
	}
	for _, r := range v.Rates {
		all = append(all, r.lineIssues()...)
	}
	all = append(all, v.socketIssues(then.Status)...)
	if s.src.Refused() {
		all = append(all, issue{
			What: "the last reload was refused", Mild: true,
			Means: "The old configuration is in force. If the new file has mistakes, the next start will fail.",
			Do:    "prefixproxy check; the log says what was wrong.",
		})
	}
	sort.SliceStable(all, func(i, j int) bool { return !all[i].Mild && all[j].Mild })
	return all
}

// heldLines says what happens to lines without a name.
func (s Status) heldLines() string {
	if s.counts() {
		return "Lines that need the name, and the points of StatsD, wait in memory and then on disk."
	}
	return "Lines that need the name wait: Carbon in memory, then on disk; StatsD for 10 s, then it is dropped. Other lines are forwarded."
}

// nameIssues returns what is wrong with the name, or with etcd.
func (s *Server) nameIssues(v view) []issue {
	found := issue{Since: v.Since}
	out, failing := s.src.Names.Outage()
	if failing {
		found.Cause, found.Do = out.Error(), cmp.Or(out.Hint, "Bring etcd back.")
	}
	switch v.State {
	case membership.Held:
		if !failing {
			return nil
		}
		found.What, found.Since, found.Mild = "the name can't be renewed", out.Since, true
		found.Means = fmt.Sprintf("Without etcd, the name is good for another %.0f s; then it is suspended, and lines wait.", v.HorizonSeconds)
	case membership.Suspended:
		found.What, found.Means = "the name may not be used", v.heldLines()+" The name is used again when etcd confirms it, if its lease still exists."
		found.Do = cmp.Or(found.Do, "Nothing, if it was just claimed: its last holder may still be there, for one TTL at most.")
	case membership.Claiming:
		found.What, found.Means, found.Do = "no name yet", v.heldLines(), cmp.Or(found.Do, "Nothing: it takes a moment.")
	case membership.Waiting:
		found.What = "every name is taken"
		found.Means = "This host takes the next one that is freed. Until then, lines that need a name are dropped after 10 s."
		found.Do = "Give the pool a longer list (membership.names), on all its hosts; /fleet shows who holds the names."
	default:
		found.What, found.Means, found.Mild = "stopping", "Waiting lines are sent or kept, and the name is released.", true
	}
	return []issue{found}
}

// upstreamIssues returns the destinations of a protocol that have no working address. If StatsD is
// counted here, it has none of its own.
func (s Status) upstreamIssues(protocol string) (all []issue) {
	byDestination := map[string][]proxy.UpstreamStatus{}
	for _, u := range s.Upstreams {
		if u.Protocol == protocol && !isCounting(u) {
			byDestination[u.Destination] = append(byDestination[u.Destination], u)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byDestination)) {
		found := issue{
			What:  fmt.Sprintf("no %s upstream is up", strings.TrimSpace(protocol+" "+name)),
			Means: "Lines wait in memory for 10 s; then they are dropped.",
			Do:    reach(byDestination[name][0].Address),
		}
		if protocol == "carbon" {
			found.Means = "Lines wait in memory, then on disk; none is lost before both are full."
		}
		isDown := true
		var causes []string
		for _, u := range byDestination[name] {
			isDown = isDown && !u.Up
			causes = append(causes, u.Address+": "+u.Reason)
			if u.Since.After(found.Since) {
				found.Since = u.Since
			}
		}
		if found.Cause = strings.Join(causes, "; "); isDown {
			all = append(all, found)
		}
	}
	return all
}

// reach returns how a person finds out whether a server is there.
func reach(server string) string {
	do := "Check whether it is running, and whether this host can reach it"
	switch u, err := address.ParseUpstream(server); {
	case err != nil || u.Host == "":
		return do + "."
	case u.Network == "tls":
		return fmt.Sprintf("%s: openssl s_client -connect %s </dev/null", do, u.HostPort())
	case u.Network == "udp":
		return fmt.Sprintf("%s: nc -uvz -w3 %s %d", do, u.Host, u.Port)
	default:
		return fmt.Sprintf("%s: nc -vz -w3 %s %d", do, u.Host, u.Port)
	}
}

// boundIssues returns what is nearly full.
func (s Status) boundIssues(b proxy.Bound) (all []issue) {
	look := func(what string, n, limit int64, found issue) {
		if part(n, limit) >= nearBound {
			found.What = fmt.Sprintf("%s is %s full", what, percent(n, limit))
			all = append(all, found)
		}
	}
	of := strings.TrimSpace(b.Protocol + " " + b.Destination)
	look("the spool of "+of, b.Spool, b.SpoolLimit, issue{
		Since: b.Oldest, Means: "When it is full, the oldest lines are dropped.", Do: "Bring the upstream back, or raise forward.carbon.spool.",
	})
	if b.Protocol == "statsd" && s.counts() {
		look("the memory of StatsD's series", b.Queue, b.QueueLimit, issue{
			Means: "When it is full, new series are dropped, and timers are accurate to 1 %.", Do: "Check whether an application puts ids into names, or raise aggregate.memory.",
		})
	} else {
		look("the queue of "+of, b.Queue, b.QueueLimit, issue{
			Means: "When it is full, the oldest lines are dropped, unless the disk takes them.", Do: "Find out why the upstream or the disk is slow.",
		})
	}
	return all
}

// undelivered are the reasons for dropping good lines, and what they mean.
var undelivered = map[string]string{
	"too_old":     "StatsD lines waited for more than 10 s.",
	"no_name":     "No name came in time.",
	"claim_lost":  "The name was lost while they waited.",
	"series_full": "StatsD has more series than aggregate.memory holds.",
	"queue_full":  "The queue is full: the upstream, or the disk, is too slow.",
	"spool_full":  "The spool is full: the upstream is away for too long.",
	"send_error":  "The connection broke, and StatsD is not sent twice.",
	"shutdown":    "A destination was removed while they waited for it.",
}

// refused are the reasons for dropping bad ones, and what they mean, except for lines that the
// upstream would refuse.
var refused = map[string]string{
	"foreign_name":  "They are under another host's name.",
	"other_tenure":  "Their timestamps are from a time when another host had the name.",
	"no_point":      "They are events, service checks, or of an unknown type.",
	"unmatched":     "They are not under rewrite.from, and rewrite.unmatched is drop.",
	"bad_timestamp": "A sender's clock, or its unit of time, is wrong.",
}

// lineIssues returns what was dropped in the last minute.
func (r rate) lineIssues() (all []issue) {
	for _, why := range slices.Sorted(maps.Keys(r.DroppedBy)) {
		found := issue{What: fmt.Sprintf("%s lines dropped in the last minute: %s as %s", r.Protocol, number(r.DroppedBy[why]), why), Mild: true}
		if found.Means = undelivered[why]; found.Means == "" {
			found.Means = cmp.Or(refused[why], "The server would refuse them, or lose other lines because of them.")
			found.Do = "Find out who sends them: the last ones are at /badlines (if admin.badlines is on)."
		}
		all = append(all, found)
	}
	return all
}

// socketIssues returns what has kept applications from getting in since then.
func (s Status) socketIssues(then proxy.Status) (all []issue) {
	if n := more(s.KernelDrops, then.KernelDrops); n > 0 {
		all = append(all, issue{
			What: fmt.Sprintf("the kernel dropped %s datagrams in the last minute", number(uint64(n))), Mild: true,
			Means: "A receive buffer was full. They are not among the lines below; prefixproxy_kernel_drops_total in /metrics says for which listener.",
			Do:    "sudo sysctl -w net.core.rmem_max=8388608, and restart; or raise ReceiveBuffer= in the socket unit; or send more lines per datagram.",
		})
	}
	if more(s.AcceptsDelayed, then.AcceptsDelayed) > 0 {
		all = append(all, issue{
			What: "new connections had to wait in the last minute", Mild: true,
			Means: "As many are open as listen.max_connections or the file descriptors allow.",
			Do:    "Find out who has so many: sudo ss -tnp; or raise listen.max_connections, and LimitNOFILE= in the unit.",
		})
	}
	return all
}

func part(n, of int64) float64 {
	if of <= 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func percent(n, of int64) string { return fmt.Sprintf("%.0f %%", 100*part(n, of)) }
