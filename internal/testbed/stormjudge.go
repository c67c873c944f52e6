//go:build linux

package testbed

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// An evidence is all that is known of a storm. Times are this machine's: the
// senders, the proxies and the receiver share one clock.
type evidence struct {
	tenures  map[string][]stormTenure // by name, in the order of their revisions
	arrivals []statsdArrival          // in the order in which they arrived
	twices   []twice
	looks    [][]look // by proxy

	stops    []stop
	hands    []hand
	reliefs  []relief
	restarts []trouble
	troubles []trouble
}

// A stormTenure is a claim as etcd's history has it.
type stormTenure struct {
	proxy    int // somebody: another's, by hand
	revision int64
	from     time.Time // when the claim was asked for
	to       time.Time // its recorded end; zero: none is
}

// who is no proxy.
const (
	somebody  = -1
	everybody = -2
)

// A stop is the time in which a proxy's process stood still.
type stop struct {
	proxy       int
	at, resumed time.Time
}

// A hand is the time in which somebody touched the key of a name.
type hand struct {
	name        string
	from, until time.Time
}

// A relief is the end of a fault that a proxy's process outlived.
type relief struct {
	proxy     int
	began, at time.Time
}

// A trouble is the time of a fault which may keep a proxy, or everybody, from
// coming back.
type trouble struct {
	proxy       int
	from, until time.Time
}

// Bounds of a judgement.
const (
	// batchAtMost is how soon after a stopped process goes on its one system
	// call ends.
	batchAtMost = time.Second

	// backAtMost is how soon a proxy whose lease lived is back.
	backAtMost = 10 * time.Second
)

// A verdict is what a judge finds.
type verdict struct {
	wrong   []string
	batches int           // lines of a system call that a stop interrupted
	back    int           // proxies whose lease lived, that came back
	slowest time.Duration // of these
}

func (v *verdict) say(format string, args ...any) {
	v.wrong = append(v.wrong, fmt.Sprintf(format, args...))
}

func (e *evidence) judge() verdict {
	var v verdict
	e.judgeLines(&v)
	e.judgePoints(&v)
	e.judgeLooks(&v)
	e.judgeReliefs(&v)
	return v
}

// judgeLines finds StatsD lines of an older tenure behind one of a newer. A line
// tells its sender and not its tenure: it counts for the first tenure of its
// sender that is possible still.
func (e *evidence) judgeLines(v *verdict) {
	at := map[string]int{} // which tenure of the name sends now
	for _, a := range e.arrivals {
		tenures := e.tenures[a.name]
		i := at[a.name]
		for i < len(tenures) && tenures[i].proxy != a.proxy {
			i++
		}
		if i < len(tenures) && !tenures[i].from.After(a.arrived) {
			at[a.name] = i
			continue
		}
		switch {
		case e.inBatch(a):
			v.batches++
		case at[a.name] < len(tenures):
			t := tenures[at[a.name]]
			v.say("%s: a StatsD line of proxy %d, sent at %s, arrived at %s, after lines of a newer tenure: that of proxy %d, claimed at %s",
				a.name, a.proxy, clockTime(a.sent), clockTime(a.arrived), t.proxy, clockTime(t.from))
		default:
			v.say("%s: a StatsD line of proxy %d arrived at %s, and nobody had claimed the name", a.name, a.proxy, clockTime(a.arrived))
		}
	}
}

// inBatch says whether a line may have been in the system call that a stop
// interrupted: the application had sent it before, and it left at once after.
func (e *evidence) inBatch(a statsdArrival) bool {
	return slices.ContainsFunc(e.stops, func(s stop) bool {
		return s.proxy == a.proxy && a.sent.Before(s.at) && a.arrived.After(s.resumed) && a.arrived.Sub(s.resumed) < batchAtMost
	})
}

// judgePoints finds what two hosts have written to one point.
func (e *evidence) judgePoints(v *verdict) {
	for _, t := range e.twices {
		v.say("%s.%s at %s: proxies %d and %d wrote it; tenures: %s", t.name, t.path, clockTime(time.Unix(t.second, 0)), t.one, t.other, e.list(t.name))
	}
}

// list returns the tenures of a name, for people.
func (e *evidence) list(name string) string {
	var out []string
	for _, t := range e.tenures[name] {
		out = append(out, fmt.Sprintf("%d from %s to %s", t.proxy, clockTime(t.from), clockTime(t.to)))
	}
	return strings.Join(out, ", ")
}

// A holding is a time in which one process of a proxy had one name: surely from
// the answer to its first look to the question of its last, and at some moment
// within each of the two.
type holding struct {
	first, last look
}

// judgeLooks finds two proxies that had one name at one instant.
func (e *evidence) judgeLooks(v *verdict) {
	byName := map[string][]holding{}
	for _, looks := range e.looks {
		for _, h := range holdings(looks) {
			byName[h.first.name] = append(byName[h.first.name], h)
		}
	}
	for name, hs := range byName {
		for i, a := range hs {
			for _, b := range hs[:i] {
				t, overlap := bothAt(a, b)
				if a.first.proxy == b.first.proxy || !overlap {
					continue
				}
				v.say("%s: proxies %d and %d said at one time that they had it, at %s", name, a.first.proxy, b.first.proxy, clockTime(t))
			}
		}
	}
}

// holdings joins looks that follow one another and show one claim: the horizon
// of each reaches to the next.
func holdings(looks []look) (out []holding) {
	open := false
	for i, l := range looks {
		if l.state != "held" {
			open = false
			continue
		}
		if open {
			before := looks[i-1]
			if before.name == l.name && before.start == l.start && !before.asked.Add(before.left).Before(l.asked) {
				out[len(out)-1].last = l
				continue
			}
		}
		out, open = append(out, holding{first: l, last: l}), true
	}
	return out
}

// bothAt returns a moment at which both surely were.
func bothAt(a, b holding) (time.Time, bool) {
	if surely(a) && surely(b) {
		from := later(a.first.answered, b.first.answered)
		if !from.After(earlier(a.last.asked, b.last.asked)) {
			return from, true
		}
	}
	for _, pair := range [][2]holding{{a, b}, {b, a}} {
		whole, moment := pair[0], pair[1]
		for _, l := range []look{moment.first, moment.last} {
			if surely(whole) && !l.asked.Before(whole.first.answered) && !l.answered.After(whole.last.asked) {
				return l.asked, true
			}
		}
	}
	return time.Time{}, false
}

func surely(h holding) bool { return h.first.answered.Before(h.last.asked) }

func later(a, b time.Time) time.Time   { return pick(a.After(b), a, b) }
func earlier(a, b time.Time) time.Time { return pick(a.Before(b), a, b) }

// judgeReliefs finds proxies that took too long to use their name again, though
// their lease lived and nothing kept them from it.
func (e *evidence) judgeReliefs(v *verdict) {
	for _, r := range e.reliefs {
		before, after, ok := e.around(r)
		if !ok || before.name != after.name || before.start != after.start || !e.oneTenure(before, after) {
			continue
		}
		took := max(0, after.answered.Sub(r.at))
		if took > backAtMost && e.disturbed(r, after) {
			continue
		}
		v.back++
		v.slowest = max(v.slowest, took)
		if took > backAtMost {
			v.say("proxy %d used %s again %v after %s, though its lease lived", r.proxy, after.name, took.Round(time.Millisecond), clockTime(r.at))
		}
	}
}

// around returns the last look that had a name before the fault, and the first
// one after it.
func (e *evidence) around(r relief) (before, after look, ok bool) {
	for _, l := range e.looks[r.proxy] {
		switch {
		case l.state != "held":
		case l.answered.Before(r.began):
			before = l
		case l.asked.After(r.at):
			return before, l, before.name != ""
		}
	}
	return before, after, false
}

// oneTenure says whether the name was not claimed between two looks.
func (e *evidence) oneTenure(before, after look) bool {
	return !slices.ContainsFunc(e.tenures[after.name], func(t stormTenure) bool {
		return t.from.After(before.answered) && t.from.Before(after.answered)
	})
}

// disturbed says whether another fault came between a relief and its look.
func (e *evidence) disturbed(r relief, after look) bool {
	between := func(from, until time.Time) bool { return from.Before(after.answered) && until.After(r.at) }
	for _, t := range slices.Concat(e.troubles, e.restarts) {
		if (t.proxy == r.proxy || t.proxy == everybody) && between(t.from, t.until) {
			return true
		}
	}
	return slices.ContainsFunc(e.reliefs, func(other relief) bool {
		return other != r && other.proxy == r.proxy && between(other.began, other.at)
	}) || slices.ContainsFunc(e.hands, func(h hand) bool {
		return h.name == after.name && between(h.from, h.until)
	})
}

func clockTime(t time.Time) string { return t.Format("15:04:05.000") }
