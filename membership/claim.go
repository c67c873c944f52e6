package membership

import (
	"fmt"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/claimtest"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// A Claim is a name held under a lease. It is a value: losing a name and claiming it again gives
// another *Claim, so the pointer is the epoch. Only the horizon moves, and only forward; anybody may read it.
type Claim struct {
	name, key string
	lease     clientv3.LeaseID
	revision  int64
	record    string // of its tenure: the last part of the key

	history history // never changes
	now     clock
	horizon atomic.Int64  // by now, in nanoseconds
	over    chan struct{} // closed when it is
	parting chan struct{} // closed when it is about to be, by choice
}

// A clock returns the time since a fixed moment. It never runs backwards.
type clock func() time.Duration

// newClaim returns a claim whose horizon is in the past.
func newClaim(name, key string, lease clientv3.LeaseID, revision int64, record string, now clock) *Claim {
	return &Claim{
		name: name, key: key, lease: lease, revision: revision, record: record, now: now,
		over: make(chan struct{}), parting: make(chan struct{}),
	}
}

func init() {
	claimtest.Make = func(c claimtest.Claim) any {
		var ours state.Tenures
		for _, t := range c.Ours {
			ours = append(ours, state.Tenure{Name: t.Name, Start: pool.FirstSecond(t.From), End: t.To.Unix()})
		}
		claim := newClaim(c.Name, "", 0, c.Revision, fmt.Sprint(c.Revision), boottime)
		claim.history = newHistory(pool.FirstSecond(c.Start), c.Name, ours, c.Others, false)
		claim.extendTo(boottime() + c.Valid)
		return claim
	}
	claimtest.Suspend = func(claim any) { claim.(*Claim).endBy(boottime()) }
	claimtest.Extend = func(claim any, valid time.Duration) {
		claim.(*Claim).extendTo(boottime() + valid)
	}
	claimtest.End = func(claim any) { close(claim.(*Claim).over) }
}

// Name returns the name: Denali.
func (c *Claim) Name() string { return c.name }

// Revision returns the revision of etcd at which the name was claimed: the fencing token.
func (c *Claim) Revision() int64 { return c.revision }

// Tenure tells the tenure that began with this claim from all others. A process that takes the
// claim over after a kill goes on with it, under another lease.
func (c *Claim) Tenure() string { return c.name + "/" + c.record }

// Done returns a channel that is closed when the claim is over: lost, or released, or replaced
// by another one on the same name before it was used. A suspended claim is not over: it may
// continue.
func (c *Claim) Done() <-chan struct{} { return c.over }

// Parting returns a channel that is closed one and a half seconds before the claim is released
// because somebody asked for the name: time for the last lines under it.
func (c *Claim) Parting() <-chan struct{} { return c.parting }

// NameAt returns the name for a Carbon line that carries t, in whole Unix seconds: that of the
// tenure to which t belongs. ok is false if t belongs to another host under our name; then the
// line has no name.
//
//   - From the start of this tenure on, it is the claim's name.
//   - Within an earlier tenure of our own, it is the name of that one.
//   - Within a tenure of another host under the claim's name there is none, nor for 5 s after
//     it if nobody had claimed the name by then, nor while the name was free before another
//     host's tenure, to which those seconds belong.
//   - At any other time it is the claim's name.
func (c *Claim) NameAt(t int64) (name string, ok bool) {
	if t >= c.history.floor {
		return c.name, true
	}
	return c.history.before(t, c.name)
}

// Floor returns the second from which on NameAt returns the claim's name: usually, this
// comparison is all that a line costs. If nothing is known of earlier tenures, it is the lowest
// int64.
func (c *Claim) Floor() int64 { return c.history.floor }

// anew returns another claim for the same name under the same lease.
func (c *Claim) anew() *Claim {
	n := newClaim(c.name, c.key, c.lease, c.revision, c.record, c.now)
	n.horizon.Store(c.horizon.Load())
	return n
}

// endBy moves the horizon back to t, when the name will be released. The claim's owner calls it,
// and does not extend the claim after that.
func (c *Claim) endBy(t time.Duration) {
	c.horizon.Store(min(c.horizon.Load(), int64(t)))
}

// extendTo moves the horizon to t, unless it is already later. It returns whether that ended a
// suspension: the claim is good, and somebody may have seen that it wasn't.
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
