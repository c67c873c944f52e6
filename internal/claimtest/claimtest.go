// Package claimtest makes claims of which etcd knows nothing, for tests of what
// uses them. Only package membership can make one, and it fills this package in.
package claimtest

import (
	"time"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A Claim says what a *membership.Claim is to be.
type Claim struct {
	Name         string
	Valid        time.Duration // from now on
	Revision     int64
	Start        time.Time // of its tenure; zero: nothing came before
	Ours, Others []Tenure  // the earlier tenures: ours under any name, the others' under this one
}

// A Tenure is one that ended: its Name, From and To.
type Tenure = pool.Tenure

// Make returns a *membership.Claim, Suspend moves the horizon of one back to now, Extend moves it to
// valid from now, and End ends the claim.
var (
	Make    func(Claim) any
	Suspend func(claim any)
	Extend  func(claim any, valid time.Duration)
	End     func(claim any)
)
