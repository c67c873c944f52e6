//go:build linux

package main

import (
	"cmp"
	"context"
	"fmt"
	"time"
)

// How a measurement goes: warm up, then the window, then a little more, so that
// the traffic does not end before the window does.
const (
	warmUp   = 250 * time.Millisecond
	overtime = 50 * time.Millisecond
	quiet    = 300 * time.Millisecond // nothing arrives for so long: nothing will
)

// A Result is what one measurement of one forwarder found.
type Result struct {
	Lines   uint64        // delivered in the window
	Window  time.Duration // as it was
	CPU     time.Duration // of the forwarding process, in the window
	Wakeups uint64        // of its threads, in the window

	P50, P99 time.Duration // from the sender's write to the sink's read; 0: not stamped

	Sent    uint64 // in the whole measurement, as the rest
	Lost    int64  // of these; negative: some came twice
	Counted uint64 // dropped lines by the forwarder's own count; 0 where it has none
	Tally
	SinkDropped uint64 // datagrams that the sink was too slow for
}

// PerMillion is the CPU time of a million lines.
func (r Result) PerMillion() float64 { return r.CPU.Seconds() / float64(r.Lines) * 1e6 }

// Rate is the lines delivered in a second.
func (r Result) Rate() float64 { return float64(r.Lines) / r.Window.Seconds() }

// Load is the CPU time in a second.
func (r Result) Load() float64 { return r.CPU.Seconds() / r.Window.Seconds() }

// WakeRate is the wake-ups in a second.
func (r Result) WakeRate() float64 { return float64(r.Wakeups) / r.Window.Seconds() }

// measure sends the traffic of a work through a forwarder.
func (b *bench) measure(ctx context.Context, w work, c *contender, f *forwarder) (r Result, err error) {
	warmUp, window, quiet := warmUp, cmp.Or(w.window, b.window), quiet
	if w.counts() {
		warmUp, quiet = countWarmUp, countQuiet
	}
	sending := warmUp + window + overtime
	b.runs++
	run := b.runs % maxRuns
	if err := b.sink.expect(w.traffic, run, c.leaves); err != nil {
		return r, err
	}
	dropped, err := countDrops(ctx, f)
	if err != nil {
		return r, err
	}
	ctx, cancel := context.WithTimeout(ctx, sending+30*time.Second)
	defer cancel()
	gen, err := startGenerator(ctx, generatorSpec{w.traffic, run, f.port, sending})
	if err != nil {
		return r, err
	}
	defer gen.stop()
	if err := pause(ctx, warmUp); err != nil {
		return r, err
	}
	if err := b.watch(ctx, f, window, &r); err != nil {
		return r, err
	}
	var done generatorReport
	if err := gen.hear(&done); err != nil {
		return r, fmt.Errorf("the generator ended early: %w", err)
	}
	report, err := b.settle(ctx, done.Sent, quiet)
	if err != nil {
		return r, err
	}
	r.Sent, r.Lost = done.Sent, int64(done.Sent-report.Lines)
	r.Tally, r.P50, r.P99, r.SinkDropped = report.Tally, report.P50, report.P99, report.Dropped
	if w.counts() { // they arrive with the flush, as far as they fall into the window
		r.Lines = uint64(float64(report.Lines) * float64(r.Window) / float64(sending))
		if w.flood {
			r.SinkDropped = 0
		}
	}
	counted, err := countDrops(ctx, f)
	r.Counted = counted - dropped
	return r, err
}

// countDrops returns what a forwarder says it has dropped, ever.
func countDrops(ctx context.Context, f *forwarder) (uint64, error) {
	if f.drops == nil {
		return 0, nil
	}
	return f.drops(ctx)
}

// A sample is what is counted at one moment.
type sample struct {
	at      time.Duration
	lines   uint64
	cpu     time.Duration
	wakeups uint64
}

// watch fills in what happens in one window.
func (b *bench) watch(ctx context.Context, f *forwarder, window time.Duration, r *Result) error {
	before, err := b.sample(f)
	if err != nil {
		return err
	}
	if err := pause(ctx, window); err != nil {
		return err
	}
	after, err := b.sample(f)
	if err != nil {
		return err
	}
	r.Window = after.at - before.at
	r.Lines = after.lines - before.lines
	r.CPU = after.cpu - before.cpu
	r.Wakeups = after.wakeups - before.wakeups
	return nil
}

func (b *bench) sample(f *forwarder) (s sample, err error) {
	report, err := b.sink.report()
	if err != nil {
		return s, err
	}
	s.at, s.lines = monotonic(), report.Tally.Lines
	if f.pid == 0 {
		return s, nil
	}
	if s.cpu, err = cpuTime(f.pid); err != nil {
		return s, err
	}
	s.wakeups, err = wakeups(f.pid)
	return s, err
}

// settle waits until all that was sent has arrived, or nothing has for so long.
func (b *bench) settle(ctx context.Context, sent uint64, quiet time.Duration) (sinkReport, error) {
	last, since := uint64(0), monotonic()
	for {
		report, err := b.sink.report()
		if err != nil {
			return report, err
		}
		arrived := report.Tally.Lines + report.Garbled
		if arrived != last {
			last, since = arrived, monotonic()
		}
		if arrived == sent || monotonic()-since > quiet {
			return report, nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return report, err
		}
	}
}
