//go:build linux

package main

import (
	"fmt"
	"slices"
	"time"
)

// A Report is what a run found. Times are in nanoseconds.
type Report struct {
	Machine  Machine
	Took     time.Duration
	Rows     []*Row
	Lossless *Lossless `json:",omitempty"`
	Idle     *Idle     `json:",omitempty"`
	Memory   *Memory   `json:",omitempty"`
	Pure     *Pure     `json:",omitempty"`
	Targets  []Target
}

// A Row is the outcome of one work.
type Row struct {
	Name, Title string
	Coalesce    time.Duration
	Flood       bool
	Columns     []*Column
}

// A Column is one contender of a row, with its results in the order of the
// rounds.
type Column struct {
	Forwarder    string
	PeakResident uint64 // bytes
	Results      []Result
}

// row returns a row by name; nil when it was not run.
func (r *Report) row(name string) *Row {
	i := slices.IndexFunc(r.Rows, func(row *Row) bool { return row.Name == name })
	if i < 0 {
		return nil
	}
	return r.Rows[i]
}

// column returns the results of a contender; nil when it took no part.
func (r *Row) column(c *contender) *Column {
	i := slices.IndexFunc(r.Columns, func(column *Column) bool { return column.Forwarder == c.name })
	if i < 0 {
		return nil
	}
	return r.Columns[i]
}

// median returns the median of a figure over the rounds.
func (c *Column) median(figure func(Result) float64) float64 {
	var values []float64
	for _, r := range c.Results {
		values = append(values, figure(r))
	}
	return median(values)
}

// sum returns the sum of a count over the rounds.
func (c *Column) sum(count func(Result) int64) (total int64) {
	for _, r := range c.Results {
		total += count(r)
	}
	return total
}

// ratio returns the median, over the rounds in which both delivered something,
// of how a figure of c compares with that of d; ok says whether there were any.
func (c *Column) ratio(d *Column, figure func(Result) float64) (ratio float64, ok bool) {
	var ratios []float64
	for i := range min(len(c.Results), len(d.Results)) {
		if c.Results[i].Lines > 0 && d.Results[i].Lines > 0 {
			ratios = append(ratios, figure(c.Results[i])/figure(d.Results[i]))
		}
	}
	return median(ratios), len(ratios) > 0
}

// median returns the middle of values, or the mean of the two in the middle; 0
// without any.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	mid := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[mid]
	}
	return (sorted[mid-1] + sorted[mid]) / 2
}

// faults tells what is wrong with what our own forwarders delivered: lines that
// arrived wrong, or did not arrive though they could have. Speed is no fault.
func (r *Row) faults() (faults []string) {
	for _, c := range []*contender{theDaemon, theLeast, theCounter} {
		column := r.column(c)
		if column == nil {
			continue
		}
		for _, result := range column.Results {
			if fault := result.fault(r.Flood); fault != "" {
				faults = append(faults, fmt.Sprintf("%s: %s: of %d lines %s", r.Name, c.name, result.Sent, fault))
			}
		}
	}
	return faults
}

// fault tells what is wrong with the lines of a measurement; "" is nothing. In
// a flood loss is no fault.
func (r Result) fault(flood bool) string {
	switch {
	case r.Disordered+r.Unrewritten+r.Garbled > 0:
		return fmt.Sprintf("%d out of order, %d not rewritten, %d garbled", r.Disordered, r.Unrewritten, r.Garbled)
	case r.Lost != 0 && r.SinkDropped > 0:
		return fmt.Sprintf("%d lost: the sink itself was too slow for %d datagrams", r.Lost, r.SinkDropped)
	case r.Lost != 0 && !flood:
		return fmt.Sprintf("%d lost, of which the forwarder has counted %d", r.Lost, r.Counted)
	}
	return ""
}
