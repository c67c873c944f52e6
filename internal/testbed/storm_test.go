//go:build linux

package testbed

import (
	"flag"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/planted"
)

var (
	stormSeconds = flag.Int("storm.seconds", 0, "run the whole storm for so many seconds")
	stormSeed    = flag.Uint64("storm.seed", 0, "seed of the storm's faults; 0: another each time")
)

func newStormPlan(t *testing.T) stormPlan {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	plan := stormPlan{
		binary: binary, proxies: 8, names: 6, span: 10 * time.Second,
		least: 300 * time.Millisecond, most: time.Second, kinds: stormKinds, seed: *stormSeed,
	}
	if plan.seed == 0 {
		plan.seed = rand.Uint64()
	}
	t.Logf("-storm.seed=%d", plan.seed)
	return plan
}

// Two hosts never share a name, whatever befalls them and etcd.
func TestStorm(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	plan := newStormPlan(t)
	if span := time.Duration(*stormSeconds) * time.Second; span > 0 {
		if end, ok := t.Deadline(); ok && time.Until(end) < span+2*time.Minute {
			t.Fatalf("go test ends before %v and what comes after: add -timeout=%v", span, span+5*time.Minute)
		}
		plan.proxies, plan.names, plan.span, plan.least, plan.most = 30, 24, span, time.Second, 3*time.Second
	}
	s := newStorm(t, plan)
	v := s.run()
	logStorm(s, v)
	report(t, s.wrong(v))
}

func logStorm(s *storm, v verdict) {
	statsd, carbon := 0, 0
	for _, p := range s.proxies {
		statsd, carbon = statsd+p.load.statsdSent, carbon+p.load.carbonSent
	}
	tenures := 0
	for _, ts := range s.evidence.tenures {
		tenures += len(ts)
	}
	for _, kind := range slices.Sorted(maps.Keys(s.counts)) {
		s.t.Logf("%3d × %s", s.counts[kind], kind)
	}
	s.t.Logf("%d proxies on %d names: %d tenures", s.plan.proxies, s.plan.names, tenures)
	arrived, points, _ := s.receiver.took()
	s.t.Logf("lines that arrived: %d of %d StatsD, %d of %d Carbon (%d points)", len(s.evidence.arrivals), statsd, arrived, carbon, points)
	s.t.Logf("Carbon lines dropped: %v", s.drops())
	s.t.Logf("violations: %d", len(v.wrong))
	s.t.Logf("apart: %d lines in a system call that a stop interrupted", v.batches)
	s.t.Logf("every name was held %v after the last fault; of proxies whose lease lived, %d were back, the slowest after %v", s.recovery.Round(time.Millisecond), v.back, v.slowest.Round(time.Millisecond))
}

// A bug that lets two hosts share a name is seen: the storm goes red with the
// daemon that has it.
func TestStormSeesBugs(t *testing.T) {
	for _, tt := range []struct {
		bug   string
		kinds []stormKind
		edit  planted.Edit
	}{
		{"the gate is off", lasting(stormTTL*13/10, stormTTL*16/10, "proxy cut off in silence", "proxy stopped"), planted.Edit{
			File: "membership/current.go",
			Old:  "if claim == nil || !claim.Valid() {",
			New:  "if claim == nil {",
		}},
		{"a free name is taken for an unused one", lasting(0, 0, "key deleted by hand"), planted.Edit{
			File: "membership/acquire.go",
			Old:  "range h.unended(ctx, got) {",
			New:  "range h.unended(ctx, got)[:0] {",
		}},
		{"the own key is not read", lasting(0, 0, "key deleted by hand"), planted.Edit{
			File: "membership/renewing.go",
			Old:  "\tcase expired:\n\t\treturn Expired\n",
			New:  "\tcase expired:\n\t\treturn Expired\n\tcase true:\n\t\treturn nil\n",
		}},
		{"a point is named by the tenure of now", lasting(0, 0, "key deleted by hand"), planted.Edit{
			File: "proxy/ingest.go",
			Old:  "name, ok := in.names.claim.NameAt(second)\n",
			New:  "name, ok := in.names.claim.Name(), second > 0\n",
		}},
	} {
		t.Run(tt.bug, func(t *testing.T) {
			planted.Patience(t, tt.edit)
			t.Parallel()
			plan := newStormPlan(t)
			plan.proxies, plan.names, plan.kinds = 10, 5, tt.kinds
			plan.binary = planted.Binary(t, tt.edit)
			for range 3 { // a storm may pass by those that have a name
				if v := newStorm(t, plan).run(); len(v.wrong) > 0 {
					t.Logf("%d violations, like: %s", len(v.wrong), v.wrong[0])
					return
				}
				plan.seed++
			}
			t.Error("the judge sees nothing wrong")
		})
	}
}

// lasting returns the kinds with these names, each as often as the others, that
// last between two times.
func lasting(least, most time.Duration, names ...string) (out []stormKind) {
	for _, k := range stormKinds {
		if slices.Contains(names, k.name) {
			k.weight, k.least, k.most = 1, least, most
			out = append(out, k)
		}
	}
	return out
}
