//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMedian(t *testing.T) {
	for _, test := range []struct {
		values []float64
		want   float64
	}{
		{nil, 0},
		{[]float64{3}, 3},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 9, 2}, 3},
	} {
		if got := median(test.values); got != test.want {
			t.Errorf("median of %v: got %v, want %v", test.values, got, test.want)
		}
	}
}

// column has one result a round, of so many CPU seconds a million lines.
func column(c *contender, perMillion ...float64) *Column {
	column := &Column{Forwarder: c.name}
	for _, s := range perMillion {
		column.Results = append(column.Results, Result{
			Lines: 1_000_000, Window: time.Second, Sent: 1_000_000, Tally: Tally{Lines: 1_000_000},
			CPU: time.Duration(s * float64(time.Second)),
		})
	}
	return column
}

func TestRatioIsTakenWithinRounds(t *testing.T) {
	// The machine was slow in the second round, for both.
	daemon, least := column(theDaemon, 2, 20, 3), column(theLeast, 1, 10, 1)
	if got, ok := daemon.ratio(least, Result.PerMillion); got != 2 || !ok {
		t.Errorf("got %v, %v, want 2", got, ok)
	}
	least.Results = least.Results[:0]
	if got, ok := daemon.ratio(least, Result.PerMillion); ok {
		t.Errorf("got %v without a common round", got)
	}
}

func TestFaults(t *testing.T) {
	for _, test := range []struct {
		name   string
		result Result
		flood  bool
		want   string // in the fault; "": none
	}{
		{"right", Result{Sent: 5}, false, ""},
		{"lost", Result{Lost: 2, Counted: 1}, false, "2 lost, of which the forwarder has counted 1"},
		{"lost in a flood", Result{Lost: 2}, true, ""},
		{"lost at the sink", Result{Lost: 28, SinkDropped: 1}, true, "the sink itself was too slow"},
		{"out of order in a flood", Result{Tally: Tally{Disordered: 3}}, true, "3 out of order"},
		{"not rewritten", Result{Tally: Tally{Unrewritten: 1}}, false, "1 not rewritten"},
		{"garbled", Result{Tally: Tally{Garbled: 1}}, false, "1 garbled"},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := test.result.fault(test.flood)
			if !strings.Contains(got, test.want) || (got == "") != (test.want == "") {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

func TestFaultsAreOfOurForwarders(t *testing.T) {
	peer, ours := column(theRelay, 1), column(theDaemon, 1)
	peer.Results[0].Lost, ours.Results[0].Lost = 7, 3
	r := &Report{Rows: []*Row{{Name: "work", Columns: []*Column{peer, ours}}}}
	if got, want := r.fault().Error(), "work: prefixproxy: of 1000000 lines 3 lost, of which the forwarder has counted 0"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTargets(t *testing.T) {
	r := &Report{Rows: []*Row{{Name: "statsd-single", Columns: []*Column{
		column(theDaemon, 2.5), column(theLeast, 2), column(thePlain, 20),
	}}}}
	var out strings.Builder
	r.Targets = r.targets()
	r.targetTable().text(&out)
	want := `target                                      figure  wanted    
statsd-single: yardstick: CPU × plain loop  0.1 ×   ≤ 0.12 ×  met
statsd-single: CPU × least                  1.25 ×  ≤ 1 ×     not met
`
	if out.String() != want {
		t.Errorf("got\n%swant\n%s", &out, want)
	}
}

func TestReadBenchmark(t *testing.T) {
	const output = `
goos: linux
BenchmarkAppend/statsd/matched-2   1  900 ns/op  1500.00 MB/s  9.1 ns/line  0 B/op  0 allocs/op
BenchmarkAppend/statsd/matched-2   1  900 ns/op  1700.50 MB/s  9.1 ns/line  0 B/op  1 allocs/op
BenchmarkAppend/statsd/matched-2   1  900 ns/op  1600.00 MB/s  9.1 ns/line  0 B/op  0 allocs/op
BenchmarkAppend/carbon/matched     1  900 ns/op  800.25 MB/s  9.1 ns/line  0 B/op  0 allocs/op
PASS
`
	for _, test := range []struct {
		name   string
		speed  float64
		allocs int
	}{{"statsd/matched", 1.6e9, 1}, {"carbon/matched", 800.25e6, 0}} {
		speed, allocs, err := readBenchmark(output, test.name)
		if err != nil || speed != test.speed || allocs != test.allocs {
			t.Errorf("%s: got %v, %d, %v, want %v, %d", test.name, speed, allocs, err, test.speed, test.allocs)
		}
	}
	if _, _, err := readBenchmark(output, "unheard/of"); err == nil {
		t.Error("no error for a benchmark that is not there")
	}
}

func TestSelectRows(t *testing.T) {
	chosen, asked, err := selectRows("latency,idle")
	if err != nil || len(chosen) != 1 || chosen[0].name != "latency" || !asked(idleRow) || asked(memoryRow) {
		t.Errorf("got %v, idle %v, memory %v, %v", chosen, asked(idleRow), asked(memoryRow), err)
	}
	if chosen, asked, err = selectRows(""); err != nil || len(chosen) != len(works) || !asked(memoryRow) {
		t.Errorf("all: got %d works, memory %v, %v", len(chosen), asked(memoryRow), err)
	}
	if _, _, err = selectRows("latency,latencies"); err == nil {
		t.Error("no error for a row that is not there")
	}
}

func TestPageKeepsWhatIsAroundTheTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "PAGE.md")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("no place")
	if _, err := readPage(path); err == nil {
		t.Error("no error for a page without a place")
	}
	write("before\n" + tablesBegin + "old\n" + tablesEnd + "after\n")
	p, err := readPage(path)
	if err != nil {
		t.Fatal(err)
	}
	r := &Report{Targets: []Target{{What: "speed", Figure: 2, Limit: 1}}}
	if err := p.write(r); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(got)
	if !strings.HasPrefix(text, "before\n"+tablesBegin) || !strings.HasSuffix(text, tablesEnd+"after\n") ||
		!strings.Contains(text, "| speed | 2 | ≤ 1 | not met |\n") || strings.Contains(text, "old") {
		t.Errorf("got %q", text)
	}
}
