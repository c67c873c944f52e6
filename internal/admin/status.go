package admin

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/fleet"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A Source is where the pages get what they show. Its methods are called from
// many goroutines.
type Source struct {
	Version  string              // of the program
	Names    Names               // the holder
	Lines    Lines               // the proxy
	Gatherer prometheus.Gatherer // what /metrics serves
	Pool     Pool                // who holds what
	Alive    func() bool         // whether the loops are running; it does not block
	Refused  func() bool         // whether the last reload was refused
}

// Names is what the pages ask of a membership.Holder.
type Names interface {
	Pool() string
	Owner() string
	Current() (*membership.Claim, bool)
	State() membership.State
	Stats() membership.Stats
	Changed() <-chan struct{}
	Outage() (membership.Outage, bool)
}

// Pool is what the pages ask of a fleet.Pool.
type Pool interface {
	View(context.Context) *fleet.View
	Counts(context.Context) *fleet.View
	Known() *fleet.View
}

// Lines is what the pages ask of a proxy.Proxy.
type Lines interface {
	Status() proxy.Status // the caller's own
	BadLines() []proxy.BadLine
}

// A Status is the state of the daemon at one moment: /status.json.
type Status struct {
	Version string `json:"version"`
	ClaimStatus
	proxy.Status
}

// A ClaimStatus is the claim at one moment.
type ClaimStatus struct {
	Pool           string           `json:"pool"`
	Owner          string           `json:"owner"`
	Name           *string          `json:"name"` // nil: there is no claim
	State          membership.State `json:"state"`
	HorizonSeconds float64          `json:"horizon_seconds"` // until the claim may be used; 0 without one, or past it
}

// status returns the daemon's state as of now.
func (src Source) status() Status {
	return Status{Version: src.Version, ClaimStatus: claimStatus(src.Names), Status: src.Lines.Status()}
}

// claimStatus returns the claim at one moment: the name, the state and the horizon never contradict
// each other.
func claimStatus(names Names) ClaimStatus {
	s := ClaimStatus{Pool: names.Pool(), Owner: names.Owner(), State: names.State()}
	claim, usable := names.Current()
	switch {
	case usable:
		s.State = membership.Held
	case claim != nil:
		s.State = membership.Suspended
	case s.State == membership.Held || s.State == membership.Suspended: // lost since
		s.State = membership.Claiming
	}
	if claim != nil {
		s.Name = new(claim.Name())
		s.HorizonSeconds = max(0, claim.Left().Seconds())
	}
	return s
}
