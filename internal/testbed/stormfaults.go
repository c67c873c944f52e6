//go:build linux

package testbed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A stormFault is one fault of a storm's schedule.
type stormFault struct {
	at, lasts time.Duration // since the storm's begin; how long
	kind      *stormKind
	proxy     int           // the victim, where it is a proxy
	mask      int           // the members of etcd that it does not reach, as bits
	name      int           // of the list, from 1: whose key is touched
	follower  int           // 1 or 2: which one, counted from the leader
	delay     time.Duration // of each piece, where etcd is slow
}

// A victim is what a fault befalls. A proxy has one fault at a time, and so has
// etcd.
type victim int

const (
	aProxy victim = iota
	etcdItself
	aKey
)

// A stormKind is a kind of fault. run returns when it is over.
type stormKind struct {
	name        string
	weight      int // how often it comes, beside the others
	befalls     victim
	least, most time.Duration
	run         func(s *storm, f stormFault)
}

// stormKinds are all kinds.
var stormKinds = []stormKind{
	{"proxy stopped", 8, aProxy, stormTTL / 10, 3 * stormTTL, func(s *storm, f stormFault) { s.stopProxy(f) }},
	{"proxy killed, and started again", 4, aProxy, 0, 2 * time.Second, func(s *storm, f stormFault) { s.restartProxy(f, (*stormProxy).kill, false) }},
	{"proxy killed, and another host in its place", 2, aProxy, 0, 2 * time.Second, func(s *storm, f stormFault) { s.restartProxy(f, (*stormProxy).kill, true) }},
	{"proxy ended, and started again", 3, aProxy, 0, 2 * time.Second, func(s *storm, f stormFault) { s.restartProxy(f, (*stormProxy).end, false) }},
	{"proxy cut off, connections reset", 2, aProxy, stormTTL / 10, 3 * stormTTL, func(s *storm, f stormFault) { s.partProxy(f, passage{cut: true}) }},
	{"proxy cut off in silence", 4, aProxy, stormTTL / 10, 3 * stormTTL, func(s *storm, f stormFault) { s.partProxy(f, passage{there: true, back: true}) }},
	{"proxy says nothing to etcd", 3, aProxy, stormTTL / 10, 3 * stormTTL, func(s *storm, f stormFault) { s.partProxy(f, passage{there: true}) }},
	{"proxy hears nothing of etcd", 3, aProxy, stormTTL / 10, 3 * stormTTL, func(s *storm, f stormFault) { s.partProxy(f, passage{back: true}) }},
	{"etcd slow for a proxy", 2, aProxy, stormTTL / 2, 3 * stormTTL, func(s *storm, f stormFault) { s.partProxy(f, passage{delay: f.delay}) }},
	{"leader killed", 2, etcdItself, 500 * time.Millisecond, 6 * time.Second, func(s *storm, f stormFault) { s.killMember(f, 0) }},
	{"leader stopped", 2, etcdItself, 500 * time.Millisecond, 8 * time.Second, func(s *storm, f stormFault) { s.stopMember(f, 0) }},
	{"leader cut off from the others", 2, etcdItself, 500 * time.Millisecond, 8 * time.Second, func(s *storm, f stormFault) { s.partMember(f, 0, false, false) }},
	{"leader hears nothing", 1, etcdItself, 500 * time.Millisecond, 8 * time.Second, func(s *storm, f stormFault) { s.partMember(f, 0, false, true) }},
	{"leader says nothing", 1, etcdItself, 500 * time.Millisecond, 8 * time.Second, func(s *storm, f stormFault) { s.partMember(f, 0, true, false) }},
	{"follower killed", 1, etcdItself, 500 * time.Millisecond, 6 * time.Second, func(s *storm, f stormFault) { s.killMember(f, f.follower) }},
	{"follower stopped", 1, etcdItself, 500 * time.Millisecond, 8 * time.Second, func(s *storm, f stormFault) { s.stopMember(f, f.follower) }},
	{"follower cut off from the others", 2, etcdItself, 500 * time.Millisecond, 8 * time.Second, func(s *storm, f stormFault) { s.partMember(f, f.follower, false, false) }},
	{"follower hears nothing", 1, etcdItself, 500 * time.Millisecond, 8 * time.Second, func(s *storm, f stormFault) { s.partMember(f, f.follower, false, true) }},
	{"leader and a follower stopped", 1, etcdItself, 500 * time.Millisecond, 2 * stormTTL, func(s *storm, f stormFault) { s.stopMember(f, 0, f.follower) }},
	{"key deleted by hand", 3, aKey, 0, 0, func(s *storm, f stormFault) { s.deleteKey(f) }},
	{"key overwritten by hand", 3, aKey, 0, 0, func(s *storm, f stormFault) { s.overwriteKey(f) }},
}

// schedule returns the faults of a storm. The same plan yields the same ones.
func schedule(plan stormPlan) (faults []stormFault) {
	rng := rand.New(rand.NewPCG(plan.seed, 0))
	between := func(least, most time.Duration) time.Duration {
		return least + time.Duration(rng.Int64N(int64(most-least)+1))
	}
	busy := map[string]time.Duration{} // until when each victim is
	for at := between(plan.least, plan.most); at < plan.span; at += between(plan.least, plan.most) {
		f := stormFault{
			at: at, kind: pickKind(rng, plan.kinds), proxy: rng.IntN(plan.proxies), mask: max(1, min(7, rng.IntN(14))),
			name: 1 + rng.IntN(plan.names), follower: 1 + rng.IntN(members-1), delay: between(50*time.Millisecond, 1500*time.Millisecond),
		}
		f.lasts = min(between(f.kind.least, f.kind.most), plan.span-at)
		victim := fmt.Sprint(f.kind.befalls)
		switch f.kind.befalls {
		case aProxy:
			victim += fmt.Sprint(" ", f.proxy)
		case aKey:
			victim += fmt.Sprint(" ", f.name)
		}
		if at < busy[victim] {
			continue
		}
		busy[victim] = at + f.lasts + time.Second
		faults = append(faults, f)
	}
	return faults
}

func pickKind(rng *rand.Rand, kinds []stormKind) *stormKind {
	sum := 0
	for _, k := range kinds {
		sum += k.weight
	}
	left := rng.IntN(sum)
	for i := range kinds {
		if left -= kinds[i].weight; left < 0 {
			return &kinds[i]
		}
	}
	return nil // not reached
}

func (s *storm) stopProxy(f stormFault) {
	d, _ := s.proxies[f.proxy].current()
	began := time.Now()
	stopped := d.freeze()
	s.pause(f.lasts)
	resumed := time.Now()
	d.resume()
	s.note(func(e *evidence) {
		e.stops = append(e.stops, stop{f.proxy, stopped, resumed})
		e.reliefs = append(e.reliefs, relief{f.proxy, began, resumed})
	})
}

func (s *storm) restartProxy(f stormFault, end func(*stormProxy), fresh bool) {
	p := s.proxies[f.proxy]
	began := time.Now()
	end(p)
	s.pause(f.lasts)
	p.start(fresh)
	s.note(func(e *evidence) { e.restarts = append(e.restarts, trouble{f.proxy, began, time.Now()}) })
}

func (s *storm) partProxy(f stormFault, way passage) {
	p := s.proxies[f.proxy]
	began := time.Now()
	p.meet(f.mask, way)
	s.pause(f.lasts)
	p.meet(f.mask, passage{})
	s.note(func(e *evidence) { e.reliefs = append(e.reliefs, relief{f.proxy, began, time.Now()}) })
}

// member returns the leader, or another one counted from it; in an election, any.
func (s *storm) member(which int) int {
	leads, err := s.cluster.leader(s.t.Context())
	if err != nil {
		leads = 0
	}
	return (leads + which) % members
}

func (s *storm) killMember(f stormFault, which int) {
	n := s.cluster.nodes[s.member(which)]
	s.troubleAll(func() {
		n.kill()
		s.pause(f.lasts)
		n.start(s.t)
	})
}

func (s *storm) stopMember(f stormFault, which ...int) {
	leader := s.member(0)
	s.troubleAll(func() {
		for _, i := range which {
			n := s.cluster.nodes[(leader+i)%members]
			n.freeze()
			defer n.resume()
		}
		s.pause(f.lasts)
	})
}

func (s *storm) partMember(f stormFault, which int, hears, says bool) {
	i := s.member(which)
	s.troubleAll(func() {
		s.cluster.part(i, hears, says)
		s.pause(f.lasts)
		s.cluster.part(i, true, true)
	})
}

// troubleAll notes that all proxies have trouble while f runs, and for as long
// after it as etcd takes to elect.
func (s *storm) troubleAll(f func()) {
	began := time.Now()
	f()
	s.note(func(e *evidence) {
		e.troubles = append(e.troubles, trouble{everybody, began, time.Now().Add(3 * time.Second)})
	})
}

func (s *storm) deleteKey(f stormFault) {
	s.byHand(f, func(ctx context.Context, key string) error {
		_, err := s.cluster.client.Delete(ctx, key)
		return err
	})
}

// overwriteKey puts a value that nobody keeps: the name is free again when its
// lease has run out.
func (s *storm) overwriteKey(f stormFault) {
	s.byHand(f, func(ctx context.Context, key string) error {
		lease, err := s.cluster.client.Grant(ctx, 2)
		if err != nil {
			return err
		}
		_, err = s.cluster.client.Put(ctx, key, "somebody", clientv3.WithLease(lease.ID))
		return err
	})
}

// byHand touches the key of a name, and notes until when its holder may notice.
// If the answer is missing, the request may take effect as late as its member of
// etcd comes back.
func (s *storm) byHand(f stormFault, touch func(ctx context.Context, key string) error) {
	name := fmt.Sprint("n", f.name)
	h := hand{name: name, from: time.Now()}
	ctx, cancel := context.WithTimeout(s.t.Context(), 3*time.Second)
	defer cancel()
	err := touch(ctx, "/prefixproxy/"+stormPool+"/names/"+name)
	h.until = time.Now().Add(stormTTL)
	if err != nil {
		h.until = h.until.Add(10 * time.Second)
	}
	s.note(func(e *evidence) { e.hands = append(e.hands, h) })
}
