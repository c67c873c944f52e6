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

	now     clock
	horizon atomic.Int64 // by now, in nanoseconds
}

// A clock returns the time since a fixed moment, and never runs backwards.
type clock func() time.Duration

// NewClaim returns a claim on name which is good for valid from now, and which
// etcd knows nothing of: it is for tests of what uses claims.
func NewClaim(name string, valid time.Duration) *Claim {
	c := &Claim{Name: name, now: boottime}
	c.Extend(valid)
	return c
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
