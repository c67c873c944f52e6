//go:build linux

package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// A table is rows of cells below a heading.
type table struct {
	heading []string
	rows    [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// text writes the table with its columns aligned.
func (t *table) text(w io.Writer) {
	aligned := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{t.heading}, t.rows...) {
		fmt.Fprintln(aligned, strings.Join(row, "\t"))
	}
	aligned.Flush()
}

// markdown writes the table in Markdown.
func (t *table) markdown(w io.Writer) {
	line := func(cells []string) { fmt.Fprintf(w, "| %s |\n", strings.Join(cells, " | ")) }
	line(t.heading)
	fmt.Fprintln(w, strings.Repeat("|---", len(t.heading))+"|")
	for _, row := range t.rows {
		line(row)
	}
}

// write writes the report, its tables by render.
func (r *Report) write(w io.Writer, render func(*table, io.Writer)) {
	fmt.Fprintf(w, "%s; %d rounds at most, %s.\n", r.Machine, r.rounds(), r.Took.Round(time.Second))
	for _, t := range []*table{r.workTable(), r.standingTable(), r.targetTable()} {
		if len(t.rows) > 0 {
			fmt.Fprintln(w)
			render(t, w)
		}
	}
}

func (r *Report) rounds() (n int) {
	for _, row := range r.Rows {
		for _, c := range row.Columns {
			n = max(n, len(c.Results))
		}
	}
	return n
}

// workTable has a row for each contender of each work.
func (r *Report) workTable() *table {
	t := &table{heading: []string{"work", "forwarder", "lines/s", "CPU s/M lines", "× least", "p50 ms", "p99 ms", "lost", "wrong", "wake-ups/s", "peak MiB"}}
	for _, row := range r.Rows {
		title := row.Title
		for _, c := range row.Columns {
			t.add(append([]string{title}, c.cells(row)...)...)
			title = ""
		}
	}
	return t
}

// cells are those of one contender.
func (c *Column) cells(row *Row) []string {
	cells := []string{c.Forwarder, thousands(c.median(Result.Rate))}
	if c.Forwarder == theDirect.name {
		cells = append(cells, "", "")
	} else {
		cells = append(cells, fmt.Sprintf("%.3f", c.median(Result.PerMillion)), c.againstLeast(row))
	}
	cells = append(cells, milliseconds(c.median(p50)), milliseconds(c.median(p99)), c.lost(), c.wrong())
	if c.Forwarder == theDirect.name {
		return append(cells, "", "")
	}
	return append(cells, thousands(c.median(Result.WakeRate)), fmt.Sprintf("%.0f", float64(c.PeakResident)/(1<<20)))
}

// againstLeast compares the CPU of a contender with the yardstick's.
func (c *Column) againstLeast(row *Row) string {
	least := row.column(theLeast)
	if least == nil || c == least {
		return ""
	}
	ratio, ok := c.ratio(least, Result.PerMillion)
	if !ok {
		return ""
	}
	return fmt.Sprintf("%.2f", ratio)
}

// lost is the share of the lines that did not arrive.
func (c *Column) lost() string {
	lost, sent := c.sum(func(r Result) int64 { return r.Lost }), c.sum(func(r Result) int64 { return int64(r.Sent) })
	if lost == 0 {
		return "0"
	}
	return fmt.Sprintf("%.2g %%", 100*float64(lost)/float64(sent))
}

// wrong is how many lines came out of order, not rewritten or garbled.
func (c *Column) wrong() string {
	return thousands(float64(c.sum(func(r Result) int64 { return int64(r.Disordered + r.Unrewritten + r.Garbled) })))
}

// milliseconds writes a latency; nothing for one that was not measured.
func milliseconds(ms float64) string {
	if ms == 0 {
		return ""
	}
	return fmt.Sprintf("%.3g", ms)
}

// thousands writes a number with commas.
func thousands(f float64) string {
	s := fmt.Sprintf("%.0f", f)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// standingTable has what is not about lines that are sent.
func (r *Report) standingTable() *table {
	t := &table{heading: []string{"daemon", "figure"}}
	if l := r.Lossless; l != nil {
		t.add("StatsD, 1 line a datagram: highest rate at which nothing was lost", thousands(float64(l.Daemon))+" lines/s")
		t.add("the same, least", thousands(float64(l.Least))+" lines/s")
	}
	if i := r.Idle; i != nil {
		t.add("idle: CPU", fmt.Sprintf("%.3f %% of a core", 100*i.Load))
		t.add("idle: wake-ups", fmt.Sprintf("%.1f a second", i.WakeRate))
		t.add("idle: resident", mebibytes(i.Resident))
	}
	if m := r.Memory; m != nil {
		t.add("both protocols flooded, upstreams that take nothing: resident at most", mebibytes(m.PeakResident))
	}
	if p := r.Pure; p != nil {
		t.add("cut + check + rewrite, StatsD", fmt.Sprintf("%.2f GB/s", p.StatsD/1e9))
		t.add("cut + check + rewrite, Carbon", fmt.Sprintf("%.2f GB/s", p.Carbon/1e9))
	}
	return t
}

func mebibytes(n uint64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// targetTable says which targets are met.
func (r *Report) targetTable() *table {
	t := &table{heading: []string{"target", "figure", "wanted", ""}}
	for _, target := range r.Targets {
		t.add(target.What, target.figure(), target.limit(), target.verdict())
	}
	return t
}
