//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/planted"
)

// A bench is what all measurements share.
type bench struct {
	dir       string        // for files, gone at the end
	binary    string        // of the daemon
	other     string        // of another version of it; "": none
	unkept    string        // of the daemon whose queue no file keeps; "" before it is asked for
	statsdDir string        // of a statsd with its proxy.js; "": none
	window    time.Duration // of a measurement
	rounds    int           // how often each contender is measured
	progress  io.Writer     // says what is going on

	etcd *devetcd.Server
	sink *remoteSink
	runs int // measurements so far
}

// asideRounds is how often a contender is measured that is only there to be
// compared with.
const asideRounds = 3

// open builds the daemon, unless there is a binary, and starts what all
// measurements share. The caller closes.
func (b *bench) open(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "prefixproxy-bench-"); err != nil {
		return err
	}
	if b.binary == "" {
		b.binary = filepath.Join(b.dir, "prefixproxy")
		if err := buildDaemon(ctx, b.binary); err != nil {
			return err
		}
	}
	if b.etcd, err = devetcd.Start(filepath.Join(b.dir, "etcd")); err != nil {
		return err
	}
	b.sink, err = startSink(ctx)
	return err
}

// buildDaemon builds the daemon as it is shipped.
func buildDaemon(ctx context.Context, binary string, flags ...string) error {
	args := append([]string{"build", "-trimpath", "-ldflags=-s -w", "-o", binary}, flags...)
	build := exec.CommandContext(ctx, "go", append(args, "github.com/prefixproxy/prefixproxy/cmd/prefixproxy")...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build the daemon: %w\n%s", err, out)
	}
	return nil
}

// notKept is the one difference of the daemon whose queue no file keeps.
var notKept = planted.Edit{File: "proxy/proxy.go", Old: "p.carbon.open(p.options.Places,", New: "p.carbon.open(store.Places{State: p.options.Places.State},"}

// buildUnkept builds that daemon.
func (b *bench) buildUnkept(ctx context.Context) error {
	if b.unkept != "" {
		return nil
	}
	root, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("find the module: %w", err)
	}
	overlay, err := planted.Write(filepath.Dir(strings.TrimSpace(string(root))), b.dir, notKept)
	if err != nil {
		return err
	}
	b.unkept = filepath.Join(b.dir, "unkept")
	return buildDaemon(ctx, b.unkept, "-overlay", overlay)
}

func (b *bench) close() {
	if b.sink != nil {
		b.sink.stop()
	}
	if b.etcd != nil {
		b.etcd.Close()
	}
	os.RemoveAll(b.dir)
}

// run measures the contenders of a work in turn, round by round: what the
// machine does at the time, it does to all of them.
func (b *bench) run(ctx context.Context, w work) (*Row, error) {
	row := &Row{Name: w.name, Title: w.title, Coalesce: w.coalesce, Flood: w.flood}
	entries, stop, err := b.enter(ctx, w, row)
	defer stop()
	if err != nil {
		return nil, err
	}
	rounds := b.rounds
	if w.rounds > 0 {
		rounds = min(rounds, w.rounds)
	}
	for round := range rounds {
		for i := range entries {
			e := entries[i]
			if round%2 == 1 {
				e = entries[len(entries)-1-i] // nobody is always first
			}
			if err := b.turn(ctx, w, e, round); err != nil {
				return nil, fmt.Errorf("%s, %s: %w", w.name, e.contender.name, err)
			}
		}
	}
	return row, nil
}

// An entry is a contender that takes part.
type entry struct {
	contender *contender
	forwarder *forwarder // nil: each turn has one of its own
	column    *Column
}

// enter starts the contenders that can take part. The caller stops them, after
// an error too.
func (b *bench) enter(ctx context.Context, w work, row *Row) (entries []entry, stop func(), err error) {
	stop = func() {
		for _, e := range entries {
			if e.forwarder != nil {
				e.forwarder.stop()
			}
		}
	}
	for _, c := range w.contenders {
		if why := b.missing(c); why != "" {
			fmt.Fprintf(b.progress, "%s: without %s: %s\n", w.name, c.name, why)
			continue
		}
		e := entry{contender: c, column: &Column{Forwarder: c.name}}
		if !w.counts() {
			e.forwarder, err = c.start(b, ctx, w)
		}
		if err != nil && c.program != "" && ctx.Err() == nil {
			fmt.Fprintf(b.progress, "%s: without %s: %v\n", w.name, c.name, err)
			continue
		}
		if err != nil {
			return entries, stop, fmt.Errorf("%s: start %s: %w", w.name, c.name, err)
		}
		row.Columns = append(row.Columns, e.column)
		entries = append(entries, e)
	}
	return entries, stop, nil
}

// turn measures one contender in one round.
func (b *bench) turn(ctx context.Context, w work, e entry, round int) error {
	if e.contender.aside && round >= asideRounds {
		return nil
	}
	f := e.forwarder
	if f == nil {
		var err error
		if f, err = e.contender.start(b, ctx, w); err != nil {
			return err
		}
		defer f.stop()
	}
	r, err := b.measure(ctx, w, e.contender, f)
	for try := 1; err == nil && r.SinkDropped > 0 && try < tries; try++ {
		fmt.Fprintf(b.progress, "%s %d: %s: again: the sink itself was too slow\n", w.name, round+1, e.contender.name)
		r, err = b.measure(ctx, w, e.contender, f)
	}
	if err == nil && f.pid != 0 {
		_, e.column.PeakResident, err = resident(f.pid)
	}
	if err != nil {
		return err
	}
	e.column.Results = append(e.column.Results, r)
	fmt.Fprintf(b.progress, "%s %d: %s: %.0f lines/s, %.3f CPU s/M, %d lost\n", w.name, round+1, e.contender.name, r.Rate(), r.PerMillion(), r.Lost)
	return nil
}

// tries is how often a turn is taken at most. One in which the sink lost lines
// says nothing about the forwarder.
const tries = 3
