package membership

import (
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// A Claim is a name held under a lease. It is a value: losing a name and
// claiming it again yields another *Claim, so that the pointer is the epoch.
// Only the horizon moves, and only forward; all may read it.
type Claim struct {
	Name     string // Denali
	Key      string // in etcd: /prefixproxy/default/names/Denali
	Owner    string
	LeaseID  clientv3.LeaseID
	Revision int64 // at which the key was created: the fencing token

	history history // never changes
	now     clock
	horizon atomic.Int64 // by now, in nanoseconds
}

// A clock returns the time since a fixed moment, and never runs backwards.
type clock func() time.Duration

// NewClaim returns a claim on name which is good for valid from now, and which
// etcd knows nothing of: it is for tests of what uses claims.
func NewClaim(name string, valid time.Duration) *Claim {
	c := &Claim{Name: name, history: newHistory(0, name, nil, nil, false), now: boottime}
	c.Extend(valid)
	return c
}

// NewClaimAfter is NewClaim for a tenure that began at from, after earlier ones:
// ours, under whichever name, and those of others under this one. Of a Tenure it
// looks at Name, From and To.
func NewClaimAfter(name string, valid time.Duration, from time.Time, ours, others []Tenure) *Claim {
	c := NewClaim(name, valid)
	spans := make([]span, len(ours))
	for i, t := range ours {
		spans[i] = span{from: firstSecond(t.From), to: t.To.Unix(), name: t.Name}
	}
	c.history = newHistory(firstSecond(from), name, spans, others, false)
	return c
}

// NameAt returns the name of a Carbon line that carries t, in whole Unix
// seconds: that of the tenure which t falls into. ok is false when that is the
// recorded tenure of another host under our name: the line has no name then.
//
//   - From the start of this tenure on, it is the claim's name.
//   - Within an earlier tenure of our own, it is that one's name.
//   - Within a tenure of another host under the claim's name, and for 5 s after
//     it if nobody had claimed the name by then, there is none; and neither while
//     the name was free between two tenures of which the later one was another's,
//     because that one has these seconds.
//   - At any other time it is the claim's name.
func (c *Claim) NameAt(t int64) (name string, ok bool) {
	if t >= c.history.floor {
		return c.Name, true
	}
	return c.history.before(t, c.Name)
}

// Floor returns the second from which on NameAt returns the claim's name: the
// one comparison that a line costs in the usual case. Where nothing is known of
// earlier tenures it is the lowest int64.
func (c *Claim) Floor() int64 { return c.history.floor }

// anew returns another claim for the same name under the same lease.
func (c *Claim) anew() *Claim {
	n := &Claim{Name: c.Name, Key: c.Key, Owner: c.Owner, LeaseID: c.LeaseID, Revision: c.Revision, now: c.now}
	n.horizon.Store(c.horizon.Load())
	return n
}

// Extend moves the horizon to valid from now, unless it is later already.
func (c *Claim) Extend(valid time.Duration) { c.extendTo(c.now() + valid) }

// extendTo moves the horizon to t, unless it is later already. It says whether
// that ended a suspension: the claim is good, and somebody may have seen it not
// being so.
func (c *Claim) extendTo(t time.Duration) (resumed bool) {
	for {
		old := c.horizon.Load()
		if int64(t) <= old {
			return false
		}
		if c.horizon.CompareAndSwap(old, int64(t)) {
			now := c.now()
			return time.Duration(old) <= now && now < t
		}
	}
}

// Valid says whether the claim may be used: now is before the horizon.
func (c *Claim) Valid() bool { return c.Left() > 0 }

// Left returns the time until the horizon; 0 or less when it is past.
func (c *Claim) Left() time.Duration { return time.Duration(c.horizon.Load()) - c.now() }
