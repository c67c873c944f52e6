package membership

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A fault is something that happens to one host, or to etcd. It draws all its
// chances when it strikes, and heals by itself.
type fault struct {
	name   string
	strike func(s *simulation, h *host)
}

// harmlessFaults returns those that never let two hosts have one name.
func harmlessFaults() []fault {
	return slices.Concat(networkFaults, cutFaults, etcdFaults, stopFaults, restartFaults, copyFaults, recordFaults, wishFaults, leaseFaults)
}

func allFaults() []fault {
	return slices.Concat(harmlessFaults(), handFaults, lossFaults)
}

// What a network does.
var networkFaults = []fault{
	{"requests are lost", weathered(weather{lost: 0.4})},
	{"answers are lost", weathered(weather{answerLost: 0.4})},
	{"requests come late", weathered(weather{late: 0.4})},
	{"revokes come late", weathered(weather{lateRevoke: 0.8})},
	{"requests come twice", weathered(weather{doubled: 0.5})},
	{"the network is bad in every way", weathered(weather{lost: 0.15, answerLost: 0.15, late: 0.15, doubled: 0.15, slow: time.Second})},
	{"the network is slow", weathered(weather{slow: 600 * time.Millisecond})},
	{"one endpoint is silent", reach(silent, 1)},
	{"two endpoints refuse", reach(refused, 2)},
	{"one endpoint is cut off from the others", reach(isolated, 1)},
	{"two endpoints are cut off from the others", reach(isolated, 2)},
}

// What cuts a host off from etcd.
var cutFaults = []fault{
	{"cut off: silence", weathered(weather{lost: 1})},
	{"cut off: no answers", weathered(weather{answerLost: 1})},
	{"all endpoints refuse", reach(refused, 3)},
}

// weathered gives a host w for 0.1 to 2 TTLs.
func weathered(w weather) func(*simulation, *host) {
	return func(s *simulation, h *host) {
		its := h.process.way
		its.set(func(way *way) { way.weather = w })
		s.later(s.ttls(0.1, 2), func() { its.set(func(way *way) { way.weather = weather{} }) })
	}
}

// reach makes n endpoints e to a host for 0.1 to 2 TTLs.
func reach(e reachable, n int) func(*simulation, *host) {
	return func(s *simulation, h *host) {
		its, first := h.process.way, s.rand.IntN(3)
		turn := func(e reachable) {
			its.set(func(w *way) {
				for i := range n {
					w.endpoints[(first+i)%3] = e
				}
			})
		}
		turn(e)
		s.later(s.ttls(0.1, 2), func() { turn(up) })
	}
}

// What etcd does without losing anything.
var etcdFaults = []fault{
	{"etcd's leader changes", func(s *simulation, _ *host) { s.deposed(time.Second+s.upTo(2*time.Second), func() {}) }},
	{"etcd's leader stands still, and goes on when another leads", func(s *simulation, _ *host) {
		d, r := time.Second+s.upTo(2*time.Second), rand.New(rand.NewPCG(s.rand.Uint64(), 0))
		history := s.etcd.restores()
		s.deposed(d, func() {})
		s.later(d+s.ttls(0, 1.5), func() { s.etcd.goOn(history, func() bool { return r.IntN(2) == 0 }) })
	}},
	{"etcd has no quorum, or all of it restarts", func(s *simulation, _ *host) { s.deposed(s.ttls(0.3, 2.5), func() {}) }},
}

// deposed leaves etcd without a leader for d, and runs then before there is
// another.
func (s *simulation) deposed(d time.Duration, then func()) {
	rate := 0.98 + 0.04*s.rand.Float64()
	s.striking.Lock()
	led := s.leading
	s.leading = true
	s.striking.Unlock()
	if led {
		return
	}
	s.etcd.depose()
	s.later(min(d, time.Second), s.etcd.forget)
	s.later(d, func() {
		then()
		s.etcd.elect(rate)
		s.trace("etcd has a leader")
		s.striking.Lock()
		s.leading = false
		s.striking.Unlock()
	})
}

// What stops a process or its machine for a while.
var stopFaults = []fault{
	{"stopped", func(s *simulation, h *host) { s.stopped(h, false, s.ttls(0.1, 3)) }},
	{"suspended", func(s *simulation, h *host) { s.stopped(h, true, s.ttls(0.1, 3)) }},
	{"stopped in the next request", func(s *simulation, h *host) {
		p, d := h.process, s.ttls(0.1, 3)
		p.stopInRequest(d)
		s.occupy(h, func() {
			s.pause(3 * time.Second)
			p.stopInRequest(0) // it made none, or it stands still by now
			s.pause(d)
		})
	}},
}

// What ends a process and begins another.
var restartFaults = []fault{
	{"killed, and started again", func(s *simulation, h *host) { s.killed(h, s.ttls(0, 0.3), func() {}) }},
	{"killed, and started again after long", func(s *simulation, h *host) { s.killed(h, s.ttls(0.3, 2), func() {}) }},
	{"rebooted", func(s *simulation, h *host) { s.killed(h, s.ttls(0.1, 1), h.reboot) }},
	{"killed in the next request", func(s *simulation, h *host) {
		h.process.stopInRequest(time.Hour)
		down := s.ttls(0, 0.3)
		s.occupy(h, func() {
			s.pause(3 * time.Second)
			h.kill()
			s.pause(down)
			h.start()
		})
	}},
	{"ended, and started again", func(s *simulation, h *host) {
		down := s.ttls(0, 1)
		s.occupy(h, func() {
			h.quit()
			s.pause(down)
			h.start()
		})
	}},
}

// What takes a lease under which a name is to be claimed.
var leaseFaults = []fault{
	{"its lease is revoked, which has no name yet", func(s *simulation, h *host) {
		s.etcd.do(func() {
			inUse := make(map[int64]bool)
			if c := h.process.holder.claim.Load(); c != nil {
				inUse[int64(c.lease)] = true // its key may be gone, which it has not seen yet
			}
			for key, kv := range s.etcd.keys {
				inUse[kv.Lease] = inUse[kv.Lease] || !strings.HasPrefix(key, pool.WaitingKey(s.cfg.Pool))
			}
			for _, id := range slices.Sorted(maps.Keys(s.etcd.leases)) {
				if s.etcd.leases[id].by == h.process && !inUse[id] {
					s.etcd.end(id)
				}
			}
		})
	}},
}

// What makes two hosts that remember the same claim.
var copyFaults = []fault{
	{"its state directory is copied to another host", func(s *simulation, h *host) {
		if len(s.hosts) >= 8 {
			return
		}
		other := s.newHost()
		h.copyTo(other)
		other.start()
	}},
	{"its machine is cloned", func(s *simulation, h *host) {
		if len(s.hosts) >= 8 {
			return
		}
		other := s.newHost()
		other.disk, other.cloned = h.disk, true
		h.copyTo(other)
		other.start()
	}},
}

func (s *simulation) stopped(h *host, suspend bool, d time.Duration) {
	h.process.stop(d, suspend)
	s.occupy(h, func() { s.pause(d) })
}

func (s *simulation) killed(h *host, down time.Duration, then func()) {
	s.occupy(h, func() {
		h.kill()
		s.pause(down)
		then()
		h.start()
	})
}

// What people with etcdctl do.
var handFaults = []fault{
	{"its key is deleted", func(s *simulation, h *host) {
		if c := h.process.holder.claim.Load(); c != nil {
			s.deleted(c.name)
		}
	}},
	{"its lease is revoked", func(s *simulation, h *host) {
		c := h.process.holder.claim.Load()
		if c == nil {
			return
		}
		s.judge.excuse(c.name, s.unseen())
		s.etcd.do(func() {
			if s.etcd.leases[int64(c.lease)] != nil {
				s.etcd.end(int64(c.lease))
			}
		})
	}},
	{"its key is overwritten", func(s *simulation, h *host) {
		c := h.process.holder.claim.Load()
		if c == nil {
			return
		}
		s.etcd.byHand(c.key, "somebody", false)
		s.later(s.ttls(0, 1.5), func() { s.deleted(c.name) })
	}},
}

func (s *simulation) deleted(name string) {
	s.etcd.byHand(pool.NamesKey(s.cfg.Pool)+name, "", true)
}

// unseen returns for how long a holder may go on with a name that was taken
// from it: until its next renewal, or when that does not get through, until the
// horizon by a clock that may be slow.
func (s *simulation) unseen() time.Duration {
	if s.quiet {
		return min(s.cfg.TTL/6, maxRenewEvery)*102/100 + 50*time.Millisecond
	}
	return pool.HorizonShare(s.cfg.TTL) * 103 / 100
}

// What people with prefixproxy release do.
var wishFaults = []fault{
	{"its name is asked for", func(s *simulation, h *host) {
		if c := h.process.holder.claim.Load(); c != nil {
			s.etcd.byHand(pool.ReleasedKey(s.cfg.Pool)+c.name, pool.LeaseHex(c.lease), false)
		}
	}},
}

// What makes etcd lose data.
var lossFaults = []fault{
	{"etcd is wiped", func(s *simulation, _ *host) { s.lost(backup{}, false) }},
	{"etcd is restored from a backup", func(s *simulation, _ *host) { s.lost(s.backup, false) }},
	{"etcd is restored from a backup, with --bump-revision", func(s *simulation, _ *host) { s.lost(s.backup, true) }},
}

// What somebody writes who has a wrong clock, or ill will.
var recordFaults = []fault{
	{"a record of the future", func(s *simulation, h *host) {
		from := time.Now().Add(time.Minute + s.upTo(24*365*time.Hour))
		r := pool.Tenure{Name: s.cfg.Names[s.rand.IntN(len(s.cfg.Names))], Owner: "somebody", Lease: 1, From: from}
		if s.rand.IntN(2) == 0 {
			r = r.End(from.Add(time.Hour), pool.Released)
		}
		s.judge.mu.Lock()
		s.judge.may(who{}, r.Name, from.Add(time.Hour)) // when that time has come
		s.judge.mu.Unlock()
		s.etcd.byHand(pool.TenuresKey(s.cfg.Pool)+r.Name+"/"+pool.RecordID(from, 1), r.Value(), false)
	}},
	{"a record that is none", func(s *simulation, h *host) {
		name := s.cfg.Names[s.rand.IntN(len(s.cfg.Names))]
		s.etcd.byHand(pool.TenuresKey(s.cfg.Pool)+name+"/"+pool.RecordID(time.Now(), 2), "{", false)
	}},
	{"a key that is no name", func(s *simulation, h *host) {
		if c := h.process.holder.claim.Load(); c != nil {
			s.etcd.do(func() {
				if s.etcd.leases[int64(c.lease)] != nil {
					s.etcd.revision++
					s.etcd.write(&pb.PutRequest{Key: []byte(pool.NamesKey(s.cfg.Pool) + "evil-" + h.name), Value: []byte(h.name), Lease: int64(c.lease)})
				}
			})
		}
	}},
}

func (s *simulation) lost(b backup, bumped bool) {
	down := s.ttls(0, 0.5)
	if s.quiet {
		down = time.Millisecond
	}
	s.deposed(down, func() {
		s.judge.excuse("", s.unseen())
		s.judge.revive(b.leases)
		s.wiped = true
		s.etcd.restore(b, bumped)
	})
}
