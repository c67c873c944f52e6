//go:build linux

package testbed

import (
	"reflect"
	"testing"
	"time"
)

// after returns a moment of the tests' storm.
func after(seconds float64) time.Time { return time.UnixMilli(1_800_000_000_000 + int64(seconds*1000)) }

// Proxy 1 had the name, then 2, then 1 again.
func changedHands() map[string][]stormTenure {
	return map[string][]stormTenure{"n1": {
		{proxy: 1, revision: 5, from: after(10), to: after(18)},
		{proxy: 2, revision: 7, from: after(20.5), to: after(29)},
		{proxy: 1, revision: 9, from: after(30)},
	}}
}

func TestJudgeLines(t *testing.T) {
	type line struct {
		proxy         int
		sent, arrived float64
	}
	for _, test := range []struct {
		name     string
		lines    []line
		evidence evidence
		wrong    int
		batches  int
	}{
		{"each in its tenure", []line{{1, 11, 11}, {1, 12, 12}, {2, 21, 21}, {1, 30, 30.1}}, evidence{}, 0, 0},
		{"late, and nobody newer has sent yet", []line{{1, 11, 11}, {1, 19, 21}, {2, 21, 21.1}}, evidence{}, 0, 0},
		{"after one of the newer tenure", []line{{1, 11, 11}, {2, 21, 21}, {1, 21, 22}, {2, 22, 22}}, evidence{}, 1, 0},
		{"as the next tenure would, before it", []line{{1, 11, 11}, {2, 21, 21}, {1, 29, 29.9}}, evidence{}, 1, 0},
		{"before the claim", []line{{2, 11, 11}}, evidence{}, 1, 0},
		{"of a proxy that never had the name", []line{{1, 11, 11}, {3, 12, 12}}, evidence{}, 1, 0},
		{
			"in a system call that a stop interrupted", []line{{1, 11, 11}, {2, 21, 21}, {1, 12, 22.1}},
			evidence{stops: []stop{{1, after(12.1), after(22)}}}, 0, 1,
		},
		{
			"sent to a stopped process", []line{{1, 11, 11}, {2, 21, 21}, {1, 13, 22.1}},
			evidence{stops: []stop{{1, after(12.1), after(22)}}}, 1, 0,
		},
		{
			"long after a stop", []line{{1, 11, 11}, {2, 21, 21}, {1, 12, 23.5}},
			evidence{stops: []stop{{1, after(12.1), after(22)}}}, 1, 0,
		},
		{
			"after a stop of another", []line{{1, 11, 11}, {2, 21, 21}, {1, 12, 22.1}},
			evidence{stops: []stop{{2, after(12.1), after(22)}}}, 1, 0,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := test.evidence
			e.tenures = changedHands()
			for _, l := range test.lines {
				e.arrivals = append(e.arrivals, statsdArrival{"n1", l.proxy, after(l.sent), after(l.arrived)})
			}
			v := e.judge()
			if len(v.wrong) != test.wrong || v.batches != test.batches {
				t.Errorf("got %d wrong, %d in batches; want %d, %d\n%q", len(v.wrong), v.batches, test.wrong, test.batches, v.wrong)
			}
		})
	}
}

func TestJudgePoints(t *testing.T) {
	e := evidence{tenures: changedHands(), twices: []twice{{point{"n1", "load.0", after(15).Unix()}, 1, 2}}}
	if v := e.judge(); len(v.wrong) != 1 {
		t.Errorf("a point that two hosts wrote: got %q, want one violation", v.wrong)
	}
}

func TestJudgeLooks(t *testing.T) {
	held := func(proxy int, asked, answered float64) look {
		return look{proxy: proxy, asked: after(asked), answered: after(answered), state: "held", name: "n1", left: 3 * time.Second}
	}
	suspended := func(l look) look { l.state = "suspended"; return l }
	again := func(l look) look { l.start++; return l }
	for _, test := range []struct {
		name     string
		one, two []look
		wrong    int
	}{
		{"one after the other", []look{held(0, 1, 1.1), held(0, 2, 2.1)}, []look{held(1, 2.2, 2.3), held(1, 3, 3.1)}, 0},
		{"at one time", []look{held(0, 1, 1.1), held(0, 2, 2.1)}, []look{held(1, 1.5, 1.6), held(1, 3, 3.1)}, 1},
		{"one look within", []look{held(0, 1, 1.1), held(0, 2, 2.1)}, []look{held(1, 1.5, 1.6)}, 1},
		{"answers that overlap prove nothing", []look{held(0, 1, 2)}, []look{held(1, 1, 2)}, 0},
		{"an answer that took too long to prove something", []look{held(0, 1, 1.1), held(0, 2, 2.1)}, []look{held(1, 1.9, 2.2)}, 0},
		{"between two looks that the horizon does not join", []look{held(0, 1, 1.1), held(0, 9, 9.1)}, []look{held(1, 5, 5.1)}, 0},
		{"between two looks of different processes", []look{held(0, 1, 1.1), again(held(0, 3, 3.1))}, []look{held(1, 2, 2.1)}, 0},
		{"while the other is suspended", []look{held(0, 1, 1.1), suspended(held(0, 2, 2.1)), held(0, 3, 3.1)}, []look{held(1, 2, 2.1)}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := evidence{looks: [][]look{test.one, test.two}}
			if v := e.judge(); len(v.wrong) != test.wrong {
				t.Errorf("got %q, want %d", v.wrong, test.wrong)
			}
		})
	}
}

func TestJudgeReliefs(t *testing.T) {
	held := func(asked float64) look {
		return look{proxy: 0, asked: after(asked), answered: after(asked + 0.1), state: "held", name: "n1"}
	}
	fault := relief{proxy: 0, began: after(12), at: after(15)}
	for _, test := range []struct {
		name     string
		back     float64
		evidence evidence
		wrong    int
		counted  int
	}{
		{"soon", 16, evidence{}, 0, 1},
		{"late", 26, evidence{}, 1, 1},
		{"late, after another fault", 26, evidence{troubles: []trouble{{everybody, after(18), after(20)}}}, 0, 0},
		{"late, and claimed anew", 26, evidence{tenures: map[string][]stormTenure{"n1": {{proxy: 0, from: after(25)}}}}, 0, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			e := test.evidence
			e.reliefs, e.looks = []relief{fault}, [][]look{{held(11), held(test.back)}}
			if v := e.judge(); len(v.wrong) != test.wrong || v.back != test.counted {
				t.Errorf("got %q and %d back, want %d and %d", v.wrong, v.back, test.wrong, test.counted)
			}
		})
	}
}

// A seed is a schedule.
func TestStormSchedule(t *testing.T) {
	plan := stormPlan{proxies: 30, names: 24, span: 10 * time.Minute, least: time.Second, most: 3 * time.Second, kinds: stormKinds, seed: 7}
	first := schedule(plan)
	if !reflect.DeepEqual(schedule(plan), first) {
		t.Error("the same seed gave another schedule")
	}
	seen := map[string]bool{}
	for _, f := range first {
		seen[f.kind.name] = true
		if f.at+f.lasts > plan.span {
			t.Errorf("%s ends at %v, after the storm", f, f.at+f.lasts)
		}
	}
	if len(seen) != len(stormKinds) {
		t.Errorf("%d of %d kinds in ten minutes", len(seen), len(stormKinds))
	}
	plan.seed++
	if reflect.DeepEqual(schedule(plan), first) {
		t.Error("another seed gave the same schedule")
	}
}
