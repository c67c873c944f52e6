package admin

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/fleet"
	"github.com/prefixproxy/prefixproxy/membership"
)

// A Collector collects the metrics of a holder, and of its pool. Each scrape asks the holder once, so
// that held and info agree, and never waits for etcd.
type Collector struct {
	Names Names
	Pool  Pool
	TTL   time.Duration // of the holder's lease
}

var (
	claimHeld = prometheus.NewDesc("prefixproxy_claim_held",
		"1 while a name is held and may be used; otherwise 0.", nil, nil)
	claimInfo = prometheus.NewDesc("prefixproxy_claim_info",
		"1, with the name that is held; absent while no name is held.", []string{"pool", "name", "owner"}, nil)
	claimHorizon = prometheus.NewDesc("prefixproxy_claim_horizon_seconds",
		"For how long the claim may still be used; 0 if there is none, or not any more.", nil, nil)
	claimTTL = prometheus.NewDesc("prefixproxy_claim_ttl_seconds",
		"membership.ttl; while etcd answers, the horizon is more than half of it away.", nil, nil)
	claims = prometheus.NewDesc("prefixproxy_claims_total",
		"Names claimed or taken over since the start.", nil, nil)
	claimLosses = prometheus.NewDesc("prefixproxy_claim_losses_total",
		"Claims lost (not released) since the start.", []string{"reason"}, nil)
	poolNames = prometheus.NewDesc("prefixproxy_pool_names",
		"Names of the pool that are held and free, and hosts waiting for one; asked of etcd at most once a minute.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (c Collector) Describe(ch chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{claimHeld, claimInfo, claimHorizon, claimTTL, claims, claimLosses, poolNames} {
		ch <- desc
	}
}

// Collect implements prometheus.Collector.
func (c Collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(desc *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, v, labels...)
	}
	counter := func(desc *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, float64(v), labels...)
	}
	if status := claimStatus(c.Names); status.State == membership.Held {
		gauge(claimHeld, 1)
		gauge(claimInfo, 1, status.Pool, *status.Name, status.Owner)
		gauge(claimHorizon, status.HorizonSeconds)
	} else {
		gauge(claimHeld, 0)
		gauge(claimHorizon, 0)
	}
	gauge(claimTTL, c.TTL.Seconds())
	stats := c.Names.Stats()
	counter(claims, stats.Claims)
	for _, loss := range membership.Losses() {
		counter(claimLosses, stats.Losses[loss], string(loss))
	}
	v := c.Pool.Known()
	if v == nil || v.At.IsZero() || time.Since(v.At) > 3*fleet.FreshCounts {
		return // nobody knows
	}
	for state, n := range map[string]int{"held": v.Held, "free": v.Free, "waiting": len(v.Waiting)} {
		gauge(poolNames, float64(n), state)
	}
}

// NewBuildInfo returns the metric that identifies the build: its version and the revision of its
// source.
func NewBuildInfo(version, revision string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name:        "prefixproxy_build_info",
		Help:        "1, with the build's version, source revision and Go version.",
		ConstLabels: prometheus.Labels{"version": version, "revision": revision, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}
