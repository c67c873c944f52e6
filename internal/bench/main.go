//go:build linux

// Bench measures what the daemon takes from its host: CPU time per line,
// throughput, latency, memory and wake-ups.
//
//	go run ./internal/bench
//
// It starts everything itself, each in a process of its own, so that CPU time
// has an owner, and sends over loopback only:
//
//	generator ──► forwarder ──► sink
//	generator.go                sink.go, ledger.go: checks every line
//	              daemon.go     `prefixproxy run` as users run it; its etcd is in
//	                            this process
//	              least.go      the yardstick: the least that moves the lines
//	              relay.go      carbon-c-relay and statsd's proxy.js
//
// The contenders of a row take turns (bench.go, measure.go), and figures are
// compared within a turn: what the machine does meanwhile, it does to all.
// works.go has the rows, targets.go what is wanted of them.
//
// It does not promise figures that mean much on another machine; the ratios
// travel better. Lines are all of one length, and their values too simple to
// say anything about aggregation.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == "part" {
		exit(act(os.Args[2], os.Args[3]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	exit(run(ctx, os.Args[1:], os.Stdout))
}

func exit(err error) {
	switch {
	case err == nil:
		os.Exit(0)
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

// options are what the command line asks for.
type options struct {
	rows     string
	check    bool
	json     string
	markdown string
	bench    bench
}

func parse(args []string) (o options, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.rows, "row", "", "measure these rows alone, with commas between them")
	flags.BoolVar(&o.check, "check", false, "only check, in ten seconds at 50,000 lines/s, that no line is lost, out of order or not rewritten")
	flags.StringVar(&o.json, "json", "", "write the report to this `file`, as JSON")
	flags.StringVar(&o.markdown, "markdown", "", "put the tables into this `file`, as Markdown, where it has a place for them")
	flags.IntVar(&o.bench.rounds, "rounds", 9, "how often each contender of a row has its turn")
	quick := flags.Bool("quick", false, "three rounds")
	flags.DurationVar(&o.bench.window, "window", 800*time.Millisecond, "how long a turn is measured")
	flags.StringVar(&o.bench.binary, "binary", "", "the daemon's `file`; it is built when there is none")
	flags.StringVar(&o.bench.other, "other", "", "the `file` of another version of the daemon, which takes its turns beside this one")
	flags.StringVar(&o.bench.statsdDir, "statsd", "", "the `directory` of a statsd (npm) whose proxy.js is to take part; it needs hashring, too")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("%q is not understood", flags.Args())
	}
	if *quick {
		o.bench.rounds = 3
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var tables *page
	if o.markdown != "" {
		if tables, err = readPage(o.markdown); err != nil {
			return err
		}
	}
	b := &o.bench
	b.progress = os.Stderr
	defer b.close()
	if err := b.open(ctx); err != nil {
		return err
	}
	report, err := o.measure(ctx)
	report.write(stdout, (*table).text) // after an error: as far as it went
	err = errors.Join(err, report.fault())
	if o.json != "" {
		err = errors.Join(err, report.writeJSON(o.json))
	}
	if tables != nil && err == nil {
		err = tables.write(report)
	}
	return err
}

// measure runs what is asked for. After an error the report is of what was run.
func (o *options) measure(ctx context.Context) (r *Report, err error) {
	r = &Report{Machine: thisMachine()}
	start := time.Now()
	if o.check {
		o.bench.window = checkWindow
		err = o.bench.runAll(ctx, r, checks)
	} else {
		err = o.measureRows(ctx, r)
	}
	r.Took, r.Targets = time.Since(start), r.targets()
	return r, err
}

// checkWindow is how long -check looks at each work.
const checkWindow = 3 * time.Second

// measureRows measures the rows that are asked for.
func (o *options) measureRows(ctx context.Context, r *Report) error {
	chosen, asked, err := selectRows(o.rows)
	if err == nil {
		err = o.bench.runAll(ctx, r, chosen)
	}
	if err == nil && asked(losslessRow) {
		r.Lossless, err = o.bench.lossless(ctx)
	}
	if err == nil && asked(idleRow) {
		r.Idle, err = o.bench.idle(ctx)
	}
	if err == nil && asked(memoryRow) {
		r.Memory, err = o.bench.memory(ctx)
	}
	if err == nil && asked(pureRow) {
		r.Pure, err = o.bench.pure(ctx)
	}
	return err
}

// runAll runs works.
func (b *bench) runAll(ctx context.Context, r *Report, works []work) error {
	for _, w := range works {
		if b.other != "" && !w.counts() {
			w.contenders = slices.Concat([]*contender{theOther}, w.contenders)
		}
		row, err := b.run(ctx, w)
		if err != nil {
			return err
		}
		r.Rows = append(r.Rows, row)
	}
	return nil
}

// writeJSON writes the report to a file.
func (r *Report) writeJSON(path string) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// fault is an error when lines arrived wrong, or not at all.
func (r *Report) fault() error {
	var errs []error
	for _, row := range r.Rows {
		for _, fault := range row.faults() {
			errs = append(errs, errors.New(fault))
		}
	}
	return errors.Join(errs...)
}
