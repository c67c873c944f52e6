//go:build linux

package main

import (
	"bytes"
	"time"
)

// maxLatency is the longest time that a ledger tells apart, in µs.
const maxLatency = 1_000_000

// A ledger checks the lines that a forwarder delivers: each must be the next
// one of its sender, rewritten, with nothing else changed.
type ledger struct {
	expected  []*script // by sender: what comes next
	unchanged []byte    // how a line begins that was not rewritten; nil where none should be
	stamped   bool
	counting  bool // lines are added up, whoever sent them

	tally     Tally
	timed     uint64   // lines sent from here on are timed, in µs: when the first was, and warmUp
	latencies []uint32 // lines by µs; the last takes all that took longer
}

// A Tally is what a ledger found. Lines that were lost are those sent that are
// neither in Lines nor in Garbled.
type Tally struct {
	Lines       uint64 // that are of a sender, in order or not
	Disordered  uint64 // of these: after a later one of the same sender, or again
	Unrewritten uint64 // of these: still under the name that they were sent with
	Garbled     uint64 // that no sender sent
}

// newLedger makes the ledger of a run of some traffic that leaves under a name.
func newLedger(t Traffic, run int, name string) *ledger {
	l := &ledger{stamped: t.Stamped, counting: t.Series > 0}
	for i := range t.Senders {
		l.expected = append(l.expected, newScript(t.Protocol, name, run, i))
	}
	if name != nameIn {
		l.unchanged = []byte(nameIn + ".")
	}
	if l.stamped {
		l.latencies = make([]uint32, maxLatency+1)
	}
	return l
}

// take checks the whole lines of data, which arrived at a moment, and returns
// what is behind the last.
func (l *ledger) take(data []byte, at time.Duration) (rest []byte) {
	for {
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			return data
		}
		l.line(data[:end], at)
		data = data[end:]
	}
}

// line checks one line, with its end.
func (l *ledger) line(ln []byte, at time.Duration) {
	if l.counting {
		l.count(ln)
		return
	}
	s := l.script(ln)
	if s == nil || !s.matches(ln) {
		l.explain(ln)
		return
	}
	s.skip(1)
	l.tally.Lines++
	if l.stamped {
		l.time(ln[s.stampAt:s.stampEnd], at)
	}
}

// script returns the script of a line's sender; nil where it has none.
func (l *ledger) script(ln []byte) *script {
	first := l.expected[0]
	if len(ln) != len(first.line) {
		return nil
	}
	n, ok := number(ln[first.senderAt:][:2])
	if !ok || n >= uint64(len(l.expected)) {
		return nil
	}
	return l.expected[n]
}

// matches says whether ln is the next line, whenever it was sent.
func (s *script) matches(ln []byte) bool {
	return bytes.Equal(ln[:s.stampAt], s.line[:s.stampAt]) && bytes.Equal(ln[s.stampEnd:], s.line[s.stampEnd:])
}

// explain books a line that is not the next one of its sender. The daemon's own
// lines, and those that another run has left behind, don't count.
func (l *ledger) explain(ln []byte) {
	if bytes.HasPrefix(ln, []byte(telemetry)) {
		return
	}
	isUnrewritten := l.unchanged != nil && bytes.HasPrefix(ln, l.unchanged)
	if isUnrewritten {
		ln = append([]byte(nameOut+"."), ln[len(l.unchanged):]...)
	}
	s := l.script(ln)
	switch {
	case s != nil && !s.isOfRun(ln):
		return
	case s == nil || !l.resync(s, ln):
		l.tally.Garbled++
		return
	}
	l.tally.Lines++
	if isUnrewritten {
		l.tally.Unrewritten++
	}
}

// isOfRun says whether ln is of the run of s.
func (s *script) isOfRun(ln []byte) bool {
	return bytes.Equal(ln[s.runAt:][:2], s.line[s.runAt:][:2])
}

// resync books a line that is some other one of its sender, and expects the
// lines behind the latest.
func (l *ledger) resync(s *script, ln []byte) bool {
	sequence := func(ln []byte) (uint64, bool) { return number(ln[s.stampEnd+1 : s.seqEnd]) }
	got, ok := sequence(ln)
	want, _ := sequence(s.line)
	if !ok {
		return false
	}
	if got < want {
		l.tally.Disordered++
		return true
	}
	s.skip(got - want)
	if !s.matches(ln) {
		return false
	}
	s.skip(1)
	return true
}

// time notes how long a line took. Those of the warm-up have to wait until the server
// has proven itself.
func (l *ledger) time(stamp []byte, at time.Duration) {
	sent, ok := number(stamp)
	if l.timed == 0 {
		l.timed = sent + micros(warmUp)
	}
	if ok && sent >= l.timed {
		l.latencies[min(micros(at)-sent, maxLatency)]++
	}
}

// latency returns the time that a share of the lines took at most; 0 without
// stamps.
func (l *ledger) latency(share float64) time.Duration {
	var total, n uint64
	for _, count := range l.latencies {
		total += uint64(count)
	}
	for us, count := range l.latencies {
		n += uint64(count)
		if n > 0 && float64(n) >= share*float64(total) {
			return time.Duration(us) * time.Microsecond
		}
	}
	return 0
}
