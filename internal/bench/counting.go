//go:build linux

package main

import (
	"bytes"
	"fmt"
	"strconv"
	"time"
)

// What counts StatsD is measured over an interval, so that each has one flush, in a process
// that was started for the turn: the flushes of those that wait would disturb it. The sum of
// the points must be what was sent.
const (
	countInterval = 10 * time.Second
	countWarmUp   = 2 * time.Second // every series has come
	countQuiet    = countInterval + countInterval/3 + 2*time.Second
)

// countingWorks are the rows in which lines are counted, beside one in which they are
// forwarded. They are measured only if they are asked for.
var countingWorks = func() (all []work) {
	for _, how := range []struct {
		name, title string
		traffic     Traffic
		flood       bool
	}{
		{"single", "1 line a datagram, 20,000 lines/s", Traffic{PerWrite: 1, Rate: 20_000}, false},
		{"packed", "28 lines a datagram, 200,000 lines/s", Traffic{PerWrite: 28, Rate: 200_000}, false},
		{"flat", "28 lines a datagram, flat out", Traffic{PerWrite: 28}, true},
	} {
		for _, series := range []int{1000, 50_000} {
			t := how.traffic
			t.Protocol, t.Senders, t.Series = statsd, 4, series
			all = append(all, work{
				name:  fmt.Sprintf("%s-%s-%d", countingRows, how.name, series),
				title: fmt.Sprintf("%s, %s series", how.title, thousands(float64(series))), coalesce: defaultCoalesce,
				traffic: t, window: countInterval, flood: how.flood, rounds: 3,
				contenders: []*contender{theDaemon, theCounter, theStatsD, theGoStatsD, theStatsite, theBrubeck},
			})
		}
	}
	return all
}()

// countingRows asks for all of them; their names begin like that.
const countingRows = "counting"

// A countScript knows the lines of a sender that are to be counted: those of all
// series in turn, in an order of its own, all of one length.
//
//	host.api.counted.0000123:1|c
type countScript struct {
	line    []byte
	at      int // of the digits
	n, step uint64
	series  uint64
}

const (
	countedName   = ".api.counted."
	countedDigits = 7
)

func newCountScript(series, sender int) *countScript {
	s := &countScript{series: uint64(series), n: uint64(sender), step: 7919} // a prime
	s.line = fmt.Appendf(nil, "%s%s%0*d:1|c\n", nameIn, countedName, countedDigits, 0)
	s.at = len(nameIn) + len(countedName)
	return s
}

func (s *countScript) next(dst []byte) []byte {
	s.n = (s.n + s.step) % s.series
	digits := s.line[s.at:][:countedDigits]
	copy(digits, "0000000")
	advance(digits, s.n)
	return append(dst, s.line...)
}

// count adds up what a line or a point says of a series, however the contender calls
// its points: "stats.host.api.counted.0000123.count 5 1700000000".
func (l *ledger) count(ln []byte) {
	_, rest, ok := bytes.Cut(ln, []byte(countedName))
	if !ok || len(rest) < countedDigits {
		return
	}
	rest = bytes.TrimPrefix(rest[countedDigits:], []byte(".count"))
	if !bytes.ContainsAny(rest[:1], " :|") {
		return // a rate
	}
	value := rest[1:]
	if end := bytes.IndexAny(value, " |"); end >= 0 {
		value = value[:end]
	}
	if n, err := strconv.ParseFloat(string(value), 64); err == nil {
		l.tally.Lines += uint64(n)
	} else {
		l.tally.Garbled++
	}
}
