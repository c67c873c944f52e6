//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A work is one kind of traffic, and who is to carry it: a row of the table.
type work struct {
	name, title string
	traffic     Traffic
	coalesce    time.Duration // how long input may gather
	contenders  []*contender
	window      time.Duration // of a measurement; 0: as asked for
	rounds      int           // at most so many; 0: as many as asked for
	flood       bool          // more than a forwarder can take: loss is no fault, if it is counted
}

// counts says whether lines are to be counted.
func (w work) counts() bool { return w.traffic.Series > 0 }

// defaultCoalesce is the daemon's default.
const defaultCoalesce = 5 * time.Millisecond

// works are all of them, in the order of the table.
var works = []work{
	{
		name:  "statsd-single",
		title: "StatsD, 1 line a datagram, 20,000 lines/s", coalesce: defaultCoalesce,
		traffic:    Traffic{Protocol: statsd, Senders: 4, PerWrite: 1, Rate: 20_000},
		contenders: []*contender{theDaemon, theLeast, thePlain, theNode},
	},
	{
		name:  "statsd-packed",
		title: "StatsD, 28 lines a datagram, 200,000 lines/s", coalesce: defaultCoalesce,
		traffic:    Traffic{Protocol: statsd, Senders: 4, PerWrite: 28, Rate: 200_000},
		contenders: []*contender{theDaemon, theLeast, theNode},
	},
	{
		name:  "statsd-flood",
		title: "StatsD, 1 line a datagram, 1,200,000 lines/s", coalesce: defaultCoalesce, flood: true,
		traffic:    Traffic{Protocol: statsd, Senders: 4, PerWrite: 1, Rate: 1_200_000},
		contenders: []*contender{theDaemon, theLeast, theNode},
	},
	{
		name:  "carbon-flat-1",
		title: "Carbon, 1 connection, flat out", coalesce: defaultCoalesce, flood: true,
		traffic:    Traffic{Protocol: carbon, Senders: 1, PerWrite: 1000},
		contenders: []*contender{theDaemon, theUnkept, theLeast, theRelay},
	},
	{
		name:  "carbon-flat-8",
		title: "Carbon, 8 connections, flat out", coalesce: defaultCoalesce, flood: true,
		traffic:    Traffic{Protocol: carbon, Senders: 8, PerWrite: 1000},
		contenders: []*contender{theDaemon, theLeast, theRelay},
	},
	{
		name:  "carbon-small-1",
		title: "Carbon, 1 connection, 50,000 lines/s in single writes", coalesce: defaultCoalesce,
		traffic:    Traffic{Protocol: carbon, Senders: 1, PerWrite: 1, Rate: 50_000, Stamped: true},
		contenders: []*contender{theDaemon, theUnkept, theLeast, theRelay},
	},
	{
		name:  "carbon-small-8",
		title: "Carbon, 8 connections, 50,000 lines/s in single writes", coalesce: defaultCoalesce,
		traffic:    Traffic{Protocol: carbon, Senders: 8, PerWrite: 1, Rate: 50_000, Stamped: true},
		contenders: []*contender{theDaemon, theLeast, theRelay},
	},
	{
		name:  "carbon-trickle",
		title: "Carbon, 4 connections, 1,000 lines/s in single writes", coalesce: defaultCoalesce, rounds: 3,
		traffic:    Traffic{Protocol: carbon, Senders: 4, PerWrite: 1, Rate: 1_000, Stamped: true},
		contenders: []*contender{theDaemon, theUnkept, theLeast},
	},
	{
		name:  "latency",
		title: "StatsD, 10,000 lines/s", coalesce: defaultCoalesce, rounds: 3,
		traffic:    Traffic{Protocol: statsd, Senders: 1, PerWrite: 1, Rate: 10_000, Stamped: true},
		contenders: []*contender{theDaemon, theLeast, theDirect},
	},
	{
		name:  "latency-0",
		title: "StatsD, 10,000 lines/s, coalesce: 0", rounds: 3,
		traffic:    Traffic{Protocol: statsd, Senders: 1, PerWrite: 1, Rate: 10_000, Stamped: true},
		contenders: []*contender{theDaemon, theLeast, theDirect},
	},
	{
		name:  "carbon-latency-0",
		title: "Carbon, 1 connection, 10,000 lines/s in single writes, coalesce: 0", rounds: 3,
		traffic:    Traffic{Protocol: carbon, Senders: 1, PerWrite: 1, Rate: 10_000, Stamped: true},
		contenders: []*contender{theDaemon, theLeast, theDirect},
	},
	{
		name:  "usual",
		title: "the usual host: StatsD, 1,000 lines/s", coalesce: defaultCoalesce, rounds: 3,
		traffic:    Traffic{Protocol: statsd, Senders: 4, PerWrite: 1, Rate: 1_000, Stamped: true},
		contenders: []*contender{theDaemon, theLeast},
	},
	{
		name:  "quiet",
		title: "a quiet host: StatsD, 100 lines/s", coalesce: defaultCoalesce, rounds: 3,
		traffic:    Traffic{Protocol: statsd, Senders: 4, PerWrite: 1, Rate: 100, Stamped: true},
		contenders: []*contender{theDaemon, theLeast},
	},
}

// checks are the works of -check: nothing may be lost, on a slow machine
// either.
var checks = []work{
	{
		name:  "statsd",
		title: "StatsD, 10 lines a datagram, 50,000 lines/s", coalesce: defaultCoalesce, rounds: 1,
		traffic:    Traffic{Protocol: statsd, Senders: 4, PerWrite: 10, Rate: 50_000},
		contenders: []*contender{theDaemon},
	},
	{
		name:  "carbon",
		title: "Carbon, 8 connections, 50,000 lines/s in single writes", coalesce: defaultCoalesce, rounds: 1,
		traffic:    Traffic{Protocol: carbon, Senders: 8, PerWrite: 1, Rate: 50_000},
		contenders: []*contender{theDaemon},
	},
}

// Rows that are no work: see standing.go.
const (
	losslessRow = "lossless"
	idleRow     = "idle"
	memoryRow   = "memory"
	pureRow     = "pure"
)

// selectRows returns the works that names, a list with commas, asks for, and
// says of each other row whether it is asked for. Without names it is all but those
// that count.
func selectRows(names string) (chosen []work, asked func(row string) bool, err error) {
	rows := strings.FieldsFunc(names, func(r rune) bool { return r == ',' })
	asked = func(row string) bool { return len(rows) == 0 || slices.Contains(rows, row) }
	known := []string{losslessRow, idleRow, memoryRow, pureRow}
	for _, w := range works {
		known = append(known, w.name)
		if asked(w.name) {
			chosen = append(chosen, w)
		}
	}
	for _, w := range countingWorks {
		known = append(known, w.name)
		if slices.Contains(rows, w.name) || slices.Contains(rows, countingRows) {
			chosen = append(chosen, w)
		}
	}
	known = append(known, countingRows)
	for _, row := range rows {
		if !slices.Contains(known, row) {
			return nil, nil, fmt.Errorf("there is no row %q; there are %s", row, strings.Join(known, ", "))
		}
	}
	return chosen, asked, nil
}
