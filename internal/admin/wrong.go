package admin

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A wrong is something that is not as it should be: what it is, since when, what it
// means, and what to do.
type wrong struct {
	What  string
	Since time.Time // zero: not known
	Cause string    // "" where What says it
	Means string
	Do    string // "" where nothing can be done
	Type  string // what can be typed; ""
	Mild  bool   // nothing is lost by it, yet
}

// nearBound is how full a queue is that people should know of.
const nearBound = 0.8

// wrongs returns what is wrong, the worst first.
func (src Source) wrongs(s Status, rates map[string]Rate, now time.Time) (all []wrong) {
	all = append(all, src.wrongName(s, now)...)
	for _, protocol := range s.protocols() {
		all = append(all, wrongUpstreams(s, protocol)...)
	}
	for _, b := range s.Bounds {
		all = append(all, s.wrongBounds(b)...)
	}
	for _, protocol := range slices.Sorted(maps.Keys(rates)) {
		all = append(all, wrongLines(protocol, rates[protocol])...)
	}
	sort.SliceStable(all, func(i, j int) bool { return !all[i].Mild && all[j].Mild })
	return all
}

// heldLines says what a missing name means for lines.
func (s Status) heldLines() string {
	if s.counts() {
		return "Lines that need the name, and the points of StatsD, wait in memory and then on disk."
	}
	return "Lines that need the name wait: Carbon in memory and then on disk, StatsD for 10 s, then it is dropped. Other lines go on."
}

// wrongName returns what keeps us from the name, and from etcd.
func (src Source) wrongName(s Status, now time.Time) (all []wrong) {
	out, failing := src.Names.Outage()
	w, mend := wrong{Since: src.since(s, now)}, "Bring etcd back."
	if failing {
		w.Cause = out.Error()
		words, command := advice(out.Hint)
		mend, w.Type = cmp.Or(words, mend), command
	}
	switch s.State {
	case membership.Held:
		if !failing {
			return nil
		}
		return []wrong{{
			What: "the name can't be renewed", Since: out.Since, Cause: w.Cause, Type: w.Type, Mild: true,
			Means: fmt.Sprintf("The name is good for another %.0f s without etcd; then it is suspended, and lines wait.", s.HorizonSeconds),
			Do:    mend,
		}}
	case membership.Suspended:
		w.What, w.Means = "the name may not be used", s.heldLines()
		w.Do = "Nothing, if it was just claimed: its last holder may still be there, for one TTL at most."
		if failing {
			w.Do = mend + " The name goes on then, if its lease is still there."
		}
	case membership.Claiming:
		w.What, w.Means = "no name yet", s.heldLines()
		if w.Do = "Nothing: it takes a moment."; failing {
			w.Do = mend
		}
	case membership.Waiting:
		w.What = "every name is taken"
		w.Means = "This host takes the next one that is freed. Until then lines that need a name wait for 10 s, and are dropped then."
		w.Do = "Give the pool a longer list (membership.names) on all its hosts; see who holds the names at /fleet."
	default:
		w.What, w.Means, w.Mild = "stopping", "What waits is sent or kept, and the name is released.", true
	}
	return []wrong{w}
}

// commandForm is a hint that ends in a command.
var commandForm = regexp.MustCompile(`^(?:(.*)[:;] )?((?:ETCDCTL_API=3|getent|ip|openssl) .*)$`)

// advice splits what a person is told of a trouble into words, and what can be typed.
func advice(hint string) (words, command string) {
	if words = hint; commandForm.MatchString(hint) {
		m := commandForm.FindStringSubmatch(hint)
		words, command = m[1], m[2]
	}
	if words != "" {
		words = strings.ToUpper(words[:1]) + words[1:] + "."
	}
	return words, command
}

// since returns since when the state is what it is.
func (src Source) since(s Status, now time.Time) time.Time {
	if claim, usable := src.Names.Current(); s.State == membership.Suspended && claim != nil && !usable {
		if past := -claim.Left(); past > 0 && past < 24*time.Hour {
			return now.Add(-past)
		}
	}
	return src.Rates.stateSince(s.State)
}

// wrongUpstreams returns the destinations of a protocol of which no address works. Where
// StatsD is counted, its own are Carbon's.
func wrongUpstreams(s Status, protocol string) (all []wrong) {
	byDestination := map[string][]proxy.UpstreamStatus{}
	for _, u := range s.Upstreams {
		if u.Protocol == protocol && !isCounting(u) {
			byDestination[u.Destination] = append(byDestination[u.Destination], u)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(byDestination)) {
		list := byDestination[name]
		if slices.ContainsFunc(list, func(u proxy.UpstreamStatus) bool { return u.Up }) {
			continue
		}
		w := wrong{What: fmt.Sprintf("no %s upstream is up", protocol), Since: list[0].Since, Do: "Look whether it runs, and whether this host reaches it.", Type: reach(list[0].Address)}
		if name != "" {
			w.What = fmt.Sprintf("no %s upstream of %s is up", protocol, name)
		}
		var causes []string
		for _, u := range list {
			if cause := u.Reason; strings.Contains(cause, u.Address) {
				causes = append(causes, cause)
			} else {
				causes = append(causes, u.Address+": "+cause)
			}
			if u.Since.After(w.Since) {
				w.Since = u.Since
			}
		}
		w.Cause = strings.Join(causes, "; ")
		if w.Means = "Lines wait in memory for 10 s, and are dropped then."; protocol == "carbon" {
			w.Means = "Lines wait, in memory and then on disk; none is lost before both are full."
		}
		all = append(all, w)
	}
	return all
}

// reach is what a person types to see whether a server is there; "" where it has no port.
func reach(address string) string {
	network, server, _ := strings.Cut(address, "://")
	server, _, _ = strings.Cut(server, "?")
	host, port, err := net.SplitHostPort(server)
	switch {
	case err != nil:
		return ""
	case network == "udp":
		return fmt.Sprintf("nc -uvz -w3 %s %s", host, port)
	}
	return fmt.Sprintf("nc -vz -w3 %s %s", host, port)
}

// wrongBounds returns what is nearly full, or waits on disk.
func (s Status) wrongBounds(b proxy.Bound) (all []wrong) {
	of := b.Protocol
	if b.Destination != "" {
		of += " " + b.Destination
	}
	if b.SpoolLimit > 0 && part(b.Spool, b.SpoolLimit) >= nearBound {
		all = append(all, wrong{
			What: fmt.Sprintf("the spool of %s is %s full", of, percent(b.Spool, b.SpoolLimit)), Since: b.Oldest,
			Means: "At its bound the oldest lines are dropped.", Do: "Bring the upstream back, or raise forward.carbon.spool.",
		})
	}
	switch {
	case part(b.Queue, b.QueueLimit) < nearBound:
	case b.Protocol == "statsd" && s.counts():
		all = append(all, wrong{
			What:  fmt.Sprintf("the memory of StatsD's series is %s full", percent(b.Queue, b.QueueLimit)),
			Means: "At its bound new series are dropped, and timers are accurate to 1 %.", Do: "See whether an application puts ids into names, or raise aggregate.memory.",
		})
	default:
		all = append(all, wrong{
			What:  fmt.Sprintf("the queue of %s is %s full", of, percent(b.Queue, b.QueueLimit)),
			Means: "At its bound the oldest lines are dropped, unless the disk takes them.", Do: "See why the upstream, or the disk, is slow.",
		})
	}
	return all
}

// undelivered are the reasons of lines that were good, and what they mean.
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

// refused are reasons of lines that were not, and what they mean, beside those that the
// upstream would refuse.
var refused = map[string]string{
	"foreign_name":  "Somebody writes under another host's name.",
	"other_tenure":  "They carry a time in which another host had the name.",
	"no_point":      "They are events, service checks, or of an unknown type.",
	"unmatched":     "They are not under rewrite.from, and rewrite.unmatched is drop.",
	"bad_timestamp": "A sender's clock, or its unit, is wrong.",
}

// wrongLines returns what was dropped in the last minute.
func wrongLines(protocol string, r Rate) (all []wrong) {
	for _, why := range slices.Sorted(maps.Keys(r.DroppedBy)) {
		n := r.DroppedBy[why]
		w := wrong{What: fmt.Sprintf("%s %s dropped in the last minute: %s", plural(n, protocol+" line"), was(n), why), Mild: true}
		if w.Means = undelivered[why]; w.Means == "" {
			w.Means = cmp.Or(refused[why], "The server would refuse them, or lose others because of them.")
			w.Do = "See who sends them: the last ones are at /badlines."
		}
		all = append(all, w)
	}
	return all
}

func was(n uint64) string {
	if n == 1 {
		return "was"
	}
	return "were"
}

func plural(n uint64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return number(n) + " " + what + "s"
}

func part(n, of int64) float64 {
	if of <= 0 {
		return 0
	}
	return float64(n) / float64(of)
}

func percent(n, of int64) string { return fmt.Sprintf("%.0f %%", 100*part(n, of)) }
