package membership

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// current is what anybody may see of a holder: its claim, or its state while there is none. Only
// Run's goroutine changes it.
type current struct {
	claim atomic.Pointer[Claim] // nil: none
	idle  atomic.Pointer[State] // the state while there is no claim

	mu        sync.Mutex
	changed   chan struct{} // closed at the next change
	stats     Stats
	atHorizon *time.Timer // makes a suspension a change
}

func newCurrent() *current {
	c := &current{changed: make(chan struct{}), stats: Stats{Losses: make(map[Loss]uint64)}}
	c.idle.Store(new(Claiming))
	c.atHorizon = time.AfterFunc(time.Hour, c.suspended)
	c.atHorizon.Stop()
	return c
}

// Current returns the claim. (nil, false): there is none. (claim, false): it is suspended.
// (claim, true): it may be used now. It takes no lock, and is right even if Run stalls.
func (c *current) Current() (*Claim, bool) {
	claim := c.claim.Load()
	if claim == nil || !claim.Valid() {
		return claim, false
	}
	// Somebody who was stopped right here may find it valid and then lost: once that is on
	// record, others need not wait for the horizon.
	now := c.claim.Load()
	return now, now == claim
}

// State returns the state of the holder; it is Held exactly while Current is good.
func (c *current) State() State {
	switch claim, ok := c.Current(); {
	case ok:
		return Held
	case claim != nil:
		return Suspended
	}
	return *c.idle.Load()
}

// Changed returns a channel that is closed at the next change of Current or State. A timer
// announces a suspension, and may be late; Current is not.
func (c *current) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Stats returns the counts.
func (c *current) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{c.stats.Claims, maps.Clone(c.stats.Losses)}
}

// count counts in the stats.
func (c *current) count(in func(*Stats)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	in(&c.stats)
}

// letGo ends the claim for everybody who asks Current, and leaves the state p.
func (c *current) letGo(p State) {
	c.idle.Store(&p)
	c.setClaim(nil)
}

// enter makes p the state while there is no claim.
func (c *current) enter(p State) {
	if *c.idle.Load() != p {
		c.letGo(p)
	}
}

// setClaim makes claim the current one, and ends the one before.
func (c *current) setClaim(claim *Claim) {
	if before := c.claim.Swap(claim); before != nil {
		close(before.over)
	}
	c.notify()
}

// suspended notifies, once the horizon has passed.
func (c *current) suspended() {
	switch claim := c.claim.Load(); {
	case claim == nil:
	case claim.Valid(): // extended since, or the clock is late
		c.atHorizon.Reset(claim.Left())
	default:
		c.notify()
	}
}

// notify tells those who wait on Changed.
func (c *current) notify() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.changed)
	c.changed = make(chan struct{})
}

// A State is the state of a holder. The package comment draws how they follow one another.
type State string

// The states.
const (
	Claiming  State = "claiming"  // asking etcd for a name
	Waiting   State = "waiting"   // all names are taken
	Held      State = "held"      // the claim may be used
	Suspended State = "suspended" // there is a claim, and it may not be used now
	Released  State = "released"  // Run has ended
)

// A Loss is why a claim was lost.
type Loss string

// The losses: a closed set.
const (
	Deleted     Loss = "deleted"     // the key is gone, the lease is not
	Overwritten Loss = "overwritten" // somebody put another value or lease on the key
	Lost        Loss = "lost"        // another claim stands at the key
	Expired     Loss = "expired"     // the lease is gone
	DataLoss    Loss = "data_loss"   // etcd was wiped, or restored from a backup
)

// Losses returns every Loss, so that counters can start at 0.
func Losses() []Loss { return []Loss{Deleted, Overwritten, Lost, Expired, DataLoss} }

// Error makes a Loss the error of the request that found it.
func (l Loss) Error() string { return "claim lost: " + string(l) }

// Stats counts what a holder has done since it was created.
type Stats struct {
	Claims uint64 // names claimed or taken over
	Losses map[Loss]uint64
}
