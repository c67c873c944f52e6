package aggregate

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// Config steers how StatsD becomes points, where forward.statsd.to is [carbon:].
type Config struct {
	// Interval is the length of a slot, and must be the step of Graphite's retention;
	// default 10s. A shorter one than Graphite's loses all points but the last of each
	// step, a longer one leaves holes.
	Interval time.Duration `yaml:"interval"`

	// Percentiles of timers: 90 makes upper_90, mean_90, sum_90, sum_squares_90 and
	// count_90, -10 lower_top10 and so on; default [90].
	Percentiles []float64 `yaml:"percentiles"`

	// Layout is how points are named: plain (Denali.x.count), statsd
	// (stats.counters.Denali.x.count) or legacy (statsd's default, stats_counts.Denali.x);
	// default plain.
	Layout Layout `yaml:"layout"`

	// Tags makes Graphite's tags of DogStatsD's (graphite, default), or leaves tags
	// away (drop).
	Tags Tags `yaml:"tags"`

	// Expire forgets a series that got nothing for so long; default 5m. Until then
	// counters say 0, and gauges their last value. 0: never.
	Expire time.Duration `yaml:"expire"`

	// Memory bounds what series take, in bytes; default 64MiB. Where it is too low, new
	// series are dropped (series_full), and timers are no longer exact.
	Memory conf.Bytes `yaml:"memory"`

	// To is rewrite.to: what stands for the host in a point, with {name}; "" is {name}.
	To string `yaml:"-"`
}

// DefaultConfig returns the defaults.
func DefaultConfig() Config {
	return Config{
		Interval: 10 * time.Second, Percentiles: []float64{90}, Layout: Plain, Tags: GraphiteTags,
		Expire: 5 * time.Minute, Memory: 64 << 20,
	}
}

// The bounds of memory, and of the interval.
const (
	minMemory   = 1 << 20
	maxInterval = time.Hour
)

// Problems returns everything that is wrong with the configuration.
func (c Config) Problems() (ps conf.Problems) {
	if c.Interval < time.Second || c.Interval > maxInterval || c.Interval%time.Second != 0 {
		ps.Addf("aggregate.interval", "whole seconds from 1s to 1h: the step of Graphite's retention", "interval %v is out of range", c.Interval)
	}
	for i, p := range c.Percentiles {
		at := fmt.Sprintf("aggregate.percentiles[%d]", i)
		if !(math.Abs(p) <= 100) {
			ps.Addf(at, "-100 to 100", "percentile %v is out of range", p)
		} else if slices.Contains(c.Percentiles[:i], p) {
			ps.Addf(at, "remove one", "%v is in the list already", p)
		}
	}
	if c.Expire < 0 {
		ps.Addf("aggregate.expire", "0 or more; 0 forgets nothing", "expire %v is negative", c.Expire)
	}
	if !slices.Contains([]Layout{Plain, StatsD, Legacy}, c.Layout) {
		ps.Addf("aggregate.layout", "plain, statsd or legacy", "%q is not known", c.Layout)
	}
	if !slices.Contains([]Tags{GraphiteTags, DropTags}, c.Tags) {
		ps.Addf("aggregate.tags", "graphite or drop", "%q is not known", c.Tags)
	}
	if c.Memory < minMemory {
		ps.Addf("aggregate.memory", "1MiB or more", "memory %v is too small", c.Memory)
	}
	return ps
}

// Layout is how points are named.
type Layout string

// The layouts.
const (
	Plain  Layout = "plain"
	StatsD Layout = "statsd"
	Legacy Layout = "legacy"
)

// Tags is what becomes of tags.
type Tags string

// The ways with tags.
const (
	GraphiteTags Tags = "graphite"
	DropTags     Tags = "drop"
)
