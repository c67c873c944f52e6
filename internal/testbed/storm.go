//go:build linux

package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// members is how many etcd has.
const members = 3

// recoveryAtMost is how long after the last fault every name is held again.
const recoveryAtMost = 2*stormTTL + 5*time.Second

// A stormPlan says what a storm is like.
type stormPlan struct {
	binary         string
	proxies, names int
	span           time.Duration // in which faults come
	least, most    time.Duration // from one fault to the next
	kinds          []stormKind
	seed           uint64
}

// A storm is many real proxies on few names, an etcd of three members, and a
// fault every now and then.
//
//	applications ──► proxy ──────────────────► receiver
//	                   │ bridge to each member
//	                   ▼
//	                 etcd × 3, a bridge into each
type storm struct {
	t        testing.TB
	plan     stormPlan
	cluster  *cluster
	receiver *stormReceiver
	proxies  []*stormProxy

	mu       sync.Mutex
	evidence evidence
	counts   map[string]int // faults by kind
	recovery time.Duration  // from the last fault until every name was held
	missing  []string       // what was not well at the last look
	late     string         // what was not well in time after the last fault
}

// newStorm starts all that a storm needs. It ends with the test.
func newStorm(t testing.TB, plan stormPlan) *storm {
	t.Helper()
	s := &storm{t: t, plan: plan, counts: map[string]int{}}
	net := newLoopbacks(t)
	s.cluster = newClusterOf(t, net, members, func(spec *etcdNodeSpec) { spec.BcryptCost = 8 })
	s.cluster.enableUsers()
	s.receiver = newStormReceiver(t)
	for i := range plan.proxies {
		s.proxies = append(s.proxies, newStormProxy(t, i, plan, net, s.cluster, s.receiver))
	}
	t.Cleanup(func() {
		for _, p := range s.proxies {
			if d, _ := p.current(); d != nil {
				d.Kill()
			}
		}
	})
	return s
}

// run runs the storm: start, faults, recovery, and the verdict.
func (s *storm) run() verdict {
	looking, stopLooking := context.WithCancel(s.t.Context())
	sending, stopSending := context.WithCancel(s.t.Context())
	var lookers, senders sync.WaitGroup
	defer func() {
		stopLooking()
		stopSending()
		lookers.Wait()
		senders.Wait()
	}()
	for _, p := range s.proxies {
		p.start(true)
		lookers.Go(func() { p.watch(looking) })
	}
	since := time.Now()
	if !s.recovered(patience) {
		for _, p := range s.proxies {
			if l, ok := p.seen(since); !ok || l.state != "held" && l.state != "waiting" {
				d, _ := p.current()
				d.Signal(syscall.SIGQUIT) // which makes it tell where it is
				<-d.Ended()
				s.t.Logf("proxy %d:\n%s", p.number, d.Stderr.Text())
			}
		}
		s.t.Fatalf("the storm could not begin: %s", strings.Join(s.missing, "; "))
	}
	for _, p := range s.proxies {
		senders.Go(func() { p.load.sendStatsD(sending) })
		senders.Go(func() { p.load.sendCarbon(sending) })
	}

	s.play(schedule(s.plan))
	calm := time.Now()
	if !s.recovered(recoveryAtMost) {
		s.late = fmt.Sprintf("%v after the last fault: %s", recoveryAtMost, strings.Join(s.missing, "; "))
	}
	s.recovery = time.Since(calm)

	stopSending()
	senders.Wait()
	s.pause(time.Second) // for lines on their way
	stopLooking()
	lookers.Wait()
	return s.gather().judge()
}

// play lets the faults happen, and returns when all are over.
func (s *storm) play(faults []stormFault) {
	began := time.Now()
	var running sync.WaitGroup
	defer running.Wait()
	for _, f := range faults {
		s.pause(f.at - time.Since(began))
		s.counts[f.kind.name]++
		s.t.Logf("%6.2f s: %s", f.at.Seconds(), f)
		running.Go(func() {
			if f.kind.befalls == aProxy {
				suffers := &s.proxies[f.proxy].suffers
				suffers.Lock()
				defer suffers.Unlock()
			}
			f.kind.run(s, f)
		})
	}
}

func (f stormFault) String() string {
	switch f.kind.befalls {
	case aProxy:
		return fmt.Sprintf("%s: %d, for %v", f.kind.name, f.proxy, f.lasts.Round(time.Millisecond))
	case aKey:
		return fmt.Sprintf("%s: n%d", f.kind.name, f.name)
	}
	return fmt.Sprintf("%s, for %v", f.kind.name, f.lasts.Round(time.Millisecond))
}

func (s *storm) pause(d time.Duration) { retry.Sleep(s.t.Context(), d) }

func (s *storm) note(what func(e *evidence)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	what(&s.evidence)
}

// recovered waits until every name is held, and who has none says that it
// waits. It returns whether that was so in time; if not, missing says what is.
func (s *storm) recovered(d time.Duration) bool {
	since := time.Now()
	return within(s.t.Context(), d, func() bool {
		s.missing = s.notWell(since)
		return len(s.missing) == 0
	})
}

// notWell says what is not well, as of looks since a moment.
func (s *storm) notWell(since time.Time) (out []string) {
	held := map[string]bool{}
	for _, p := range s.proxies {
		l, ok := p.seen(since)
		switch {
		case !ok:
			out = append(out, fmt.Sprintf("proxy %d does not answer", p.number))
		case l.state == "held":
			held[l.name] = true
		case l.state != "waiting":
			out = append(out, fmt.Sprintf("proxy %d is %s", p.number, l.state))
		}
	}
	if len(held) < s.plan.names {
		out = append(out, fmt.Sprintf("%d of %d names are held", len(held), s.plan.names))
	}
	return out
}

// gather returns the evidence, when all has ended.
func (s *storm) gather() *evidence {
	e := &s.evidence
	s.receiver.mu.Lock()
	e.arrivals, e.twices = s.receiver.arrivals, s.receiver.twices
	s.receiver.mu.Unlock()
	for _, p := range s.proxies {
		p.mu.Lock()
		e.looks = append(e.looks, p.looks)
		p.mu.Unlock()
	}
	eventually(s.t, "etcd's history", func() (err error) { // a token may have gone with a leader
		e.tenures, err = s.history()
		return err
	})
	return e
}

// history returns every claim that there was, from etcd's own revisions, of
// which none was compacted.
func (s *storm) history() (map[string][]stormTenure, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	pool := "/prefixproxy/" + stormPool + "/"
	now, err := s.cluster.client.Get(ctx, pool, clientv3.WithLimit(1))
	if err != nil {
		return nil, err
	}
	if _, err := s.cluster.client.Put(ctx, pool+"end", ""); err != nil { // so that the watch comes to an end
		return nil, err
	}
	b := history{records: map[string]record{}, tenures: map[string][]stormTenure{}}
	for resp := range s.cluster.client.Watch(ctx, pool, clientv3.WithPrefix(), clientv3.WithRev(1)) {
		if resp.Err() != nil {
			return nil, resp.Err()
		}
		for _, ev := range resp.Events {
			if ev.Kv.ModRevision > now.Header.Revision {
				return b.dated(), nil
			}
			b.take(strings.Split(strings.TrimPrefix(string(ev.Kv.Key), pool), "/"), ev)
		}
	}
	return nil, ctx.Err()
}

// A history is what etcd's revisions tell, as they are gone through.
type history struct {
	tenures map[string][]stormTenure // by name
	records map[string]record        // by the last part of their keys
}

// A record is that of a tenure, as the proxies write it.
type record struct {
	revision int64 // of the claim, with which it is written first
	from, to time.Time
}

// take takes a change of a key, whose path below the pool is given in parts.
func (b *history) take(path []string, ev *clientv3.Event) {
	switch {
	case path[0] == "names" && ev.IsCreate():
		b.tenures[path[1]] = append(b.tenures[path[1]], stormTenure{proxy: ownerNumber(ev.Kv.Value), revision: ev.Kv.ModRevision})
	case path[0] == "tenures" && ev.Type == clientv3.EventTypePut:
		r, known := b.records[path[2]]
		if !known {
			r.revision = ev.Kv.ModRevision
		}
		var text struct{ From, To time.Time }
		if json.Unmarshal(ev.Kv.Value, &text) == nil {
			r.from, r.to = text.From, text.To
		}
		b.records[path[2]] = r
	}
}

// dated returns the tenures with the times of their records.
func (b *history) dated() map[string][]stormTenure {
	byRevision := map[int64]record{}
	for _, r := range b.records {
		byRevision[r.revision] = r
	}
	for _, ts := range b.tenures {
		for i := range ts {
			r := byRevision[ts[i].revision]
			ts[i].from, ts[i].to = r.from, r.to
		}
	}
	return b.tenures
}

// ownerNumber returns the proxy whose owner this is.
func ownerNumber(owner []byte) int {
	n, err := strconv.Atoi(string(owner))
	if err != nil {
		return somebody
	}
	return n
}

// dropsOf are the reasons for which a storm's Carbon lines may be dropped. No other is
// excused: nobody stores for ever, and no application sends what is refused.
var dropsOf = map[string]string{
	"other_tenure": "it is of a second that is another host's, or may be: within its tenure, up to its recorded end and 5 s, or before we may use the name",
	"no_name":      "all names had been taken for 10 s: there are more proxies than names",
}

// drops returns how many Carbon lines were dropped, by reason, as far as was seen
// before a process was killed.
func (s *storm) drops() map[string]uint64 {
	sum := map[string]uint64{}
	for _, p := range s.proxies {
		p.mu.Lock()
		for _, by := range p.drops {
			for reason, n := range by {
				sum[reason] += n
			}
		}
		p.mu.Unlock()
	}
	return sum
}

// wrong returns all that is wrong with a storm: what the judge says, what the
// proxies did, and lines that nobody sent.
func (s *storm) wrong(v verdict) []string {
	out := v.wrong
	if s.late != "" {
		out = append(out, s.late)
	}
	for _, p := range s.proxies {
		p.mu.Lock()
		out = append(out, p.wrong...)
		p.mu.Unlock()
	}
	for reason, n := range s.drops() {
		if dropsOf[reason] == "" {
			out = append(out, fmt.Sprintf("%d Carbon lines were dropped as %s, which nothing excuses", n, reason))
		}
	}
	_, _, strange := s.receiver.took()
	for _, line := range strange {
		out = append(out, fmt.Sprintf("a line arrived that nobody sent: %q", line))
	}
	return out
}
