//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
	"time"
)

// delivered returns what a faultless forwarder delivers of the senders' first
// n lines each, one sender after the other.
func delivered(t Traffic, run, n int) (lines []string) {
	for sender := range t.Senders {
		s := newScript(t.Protocol, nameOut, run, sender)
		for range n {
			lines = append(lines, string(s.next(nil)))
		}
	}
	return lines
}

func TestLedgerTellsWhatIsWrong(t *testing.T) {
	traffic := Traffic{Protocol: carbon, Senders: 2}
	const run = 7
	for _, test := range []struct {
		name   string
		change func(lines []string) []string
		want   Tally
	}{
		{"nothing", func(l []string) []string { return l }, Tally{Lines: 10}},
		{"lost", func(l []string) []string { return slices.Delete(l, 2, 4) }, Tally{Lines: 8}},
		{"lost at the start", func(l []string) []string { return l[1:] }, Tally{Lines: 9}},
		{"twice", func(l []string) []string { return slices.Insert(l, 3, l[2]) }, Tally{Lines: 11, Disordered: 1}},
		{"swapped", func(l []string) []string { l[1], l[2] = l[2], l[1]; return l }, Tally{Lines: 10, Disordered: 1}},
		{"senders mixed", func(l []string) []string { return append(l[5:], l[:5]...) }, Tally{Lines: 10}},
		{"not rewritten", func(l []string) []string {
			l[4] = strings.Replace(l[4], nameOut, nameIn, 1)
			return l
		}, Tally{Lines: 10, Unrewritten: 1}},
		{"another value", func(l []string) []string {
			l[9] = strings.Replace(l[9], " 4000000000", " 4000000001", 1)
			return l
		}, Tally{Lines: 9, Garbled: 1}},
		{"cut", func(l []string) []string { l[0] = l[0][10:]; return l }, Tally{Lines: 9, Garbled: 1}},
		{"joined", func(l []string) []string { l[0] = strings.TrimSuffix(l[0], "\n"); return l }, Tally{Lines: 8, Garbled: 1}},
		{"no such sender", func(l []string) []string {
			return append(l, string(newScript(carbon, nameOut, run, 2).line))
		}, Tally{Lines: 10, Garbled: 1}},
		{"another run", func(l []string) []string { return append(l, delivered(traffic, run-1, 3)...) }, Tally{Lines: 10}},
		{"the daemon's own", func(l []string) []string { return append(l, "Denali.prefixproxy.claim_held:1|g\n") }, Tally{Lines: 10}},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := newLedger(traffic, run, nameOut)
			data := strings.Join(test.change(delivered(traffic, run, 5)), "")
			if rest := l.take([]byte(data), 0); len(rest) > 0 {
				t.Errorf("left over: %q", rest)
			}
			if l.tally != test.want {
				t.Errorf("got %+v, want %+v", l.tally, test.want)
			}
		})
	}
}

func TestLedgerOfAForwarderThatDoesNotRewrite(t *testing.T) {
	l := newLedger(Traffic{Protocol: statsd, Senders: 1}, 0, nameIn)
	s := newScript(statsd, nameIn, 0, 0)
	l.take(s.next(s.next(nil)), 0)
	if want := (Tally{Lines: 2}); l.tally != want {
		t.Errorf("got %+v, want %+v", l.tally, want)
	}
}

func TestLedgerKeepsAnUnfinishedLine(t *testing.T) {
	l := newLedger(Traffic{Protocol: statsd, Senders: 1}, 0, nameOut)
	const unfinished = "Denali.r00"
	if rest := l.take([]byte(delivered(Traffic{Protocol: statsd, Senders: 1}, 0, 1)[0]+unfinished), 0); string(rest) != unfinished {
		t.Errorf("got %q, want %q", rest, unfinished)
	}
}

func TestLedgerMeasuresLatency(t *testing.T) {
	l := newLedger(Traffic{Protocol: statsd, Senders: 1, Stamped: true}, 0, nameOut)
	s := newScript(statsd, nameOut, 0, 0)
	sent := 1000 * time.Second
	s.stamp(micros(sent - warmUp))
	l.take(s.next(nil), sent+time.Second) // the server had not proven itself
	s.stamp(micros(sent))
	for i := range 100 {
		l.take(s.next(nil), sent+time.Duration(i+1)*time.Millisecond)
	}
	for share, want := range map[float64]time.Duration{0.50: 50 * time.Millisecond, 0.99: 99 * time.Millisecond, 1: 100 * time.Millisecond} {
		if got := l.latency(share); got != want {
			t.Errorf("latency of %.0f %%: got %v, want %v", 100*share, got, want)
		}
	}
}

func TestLedgerDoesNotAllocate(t *testing.T) {
	traffic := Traffic{Protocol: statsd, Senders: 1, Stamped: true}
	l := newLedger(traffic, 0, nameOut)
	s := newScript(statsd, nameOut, 0, 0)
	buf := make([]byte, 0, 28*len(s.line))
	if n := testing.AllocsPerRun(100, func() {
		buf = buf[:0]
		for range 28 {
			buf = s.next(buf)
		}
		l.take(buf, time.Second)
	}); n != 0 {
		t.Errorf("got %v allocations a datagram, want 0", n)
	}
}

func TestAdvance(t *testing.T) {
	for _, test := range []struct {
		digits string
		n      uint64
		want   string
	}{
		{"000", 0, "000"},
		{"009", 1, "010"},
		{"099", 1, "100"},
		{"120", 1000, "120"}, // no room: the number wraps
		{"001", 998, "999"},
	} {
		got := []byte(test.digits)
		advance(got, test.n)
		if string(got) != test.want {
			t.Errorf("%s + %d: got %s, want %s", test.digits, test.n, got, test.want)
		}
	}
}

func BenchmarkLedger(b *testing.B) {
	l := newLedger(Traffic{Protocol: carbon, Senders: 1}, 0, nameOut)
	s := newScript(carbon, nameOut, 0, 0)
	const lines = 1000
	buf := make([]byte, 0, lines*len(s.line))
	b.SetBytes(int64(cap(buf)))
	b.ReportAllocs()
	for b.Loop() {
		buf = buf[:0]
		for range lines {
			buf = s.next(buf)
		}
		l.take(buf, 0)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
}
