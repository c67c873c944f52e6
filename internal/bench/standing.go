//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"strconv"
	"time"
)

// idleWindow is how long an idle daemon is looked at: two intervals of its own
// telemetry, and several renewals of its claim. Before, it settles.
const (
	idleWindow = 20 * time.Second
	idleSettle = 3 * time.Second
)

// Idle is what a daemon takes to which nobody sends.
type Idle struct {
	Load     float64 // CPU seconds a second
	WakeRate float64 // a second, of all threads
	Resident uint64  // bytes
}

// idle looks at an idle daemon.
func (b *bench) idle(ctx context.Context) (*Idle, error) {
	f, err := b.forwardByDaemon(ctx, work{traffic: Traffic{Protocol: statsd}, coalesce: defaultCoalesce})
	if err != nil {
		return nil, err
	}
	defer f.stop()
	if err := pause(ctx, idleSettle); err != nil {
		return nil, err
	}
	var r Result
	if err := b.watch(ctx, f, idleWindow, &r); err != nil {
		return nil, err
	}
	now, _, err := resident(f.pid)
	return &Idle{Load: r.Load(), WakeRate: r.WakeRate(), Resident: now}, err
}

// How the highest lossless rate is looked for: by halving, so often.
const (
	losslessWindow = 400 * time.Millisecond
	losslessMost   = 1_200_000 // lines a second
	losslessSteps  = 5
)

// Lossless is the highest rate of StatsD lines, one a datagram, at which nothing
// was lost, in lines a second. It varies much from run to run.
type Lossless struct{ Daemon, Least int }

// lossless looks for the highest lossless rates.
func (b *bench) lossless(ctx context.Context) (l *Lossless, err error) {
	l = &Lossless{}
	if l.Daemon, err = b.highestLossless(ctx, theDaemon); err != nil {
		return nil, err
	}
	l.Least, err = b.highestLossless(ctx, theLeast)
	return l, err
}

func (b *bench) highestLossless(ctx context.Context, c *contender) (low int, err error) {
	w := work{name: losslessRow, coalesce: defaultCoalesce, window: losslessWindow, traffic: Traffic{Protocol: statsd, Senders: 4, PerWrite: 1}}
	f, err := c.start(b, ctx, w)
	if err != nil {
		return 0, err
	}
	defer f.stop()
	high := losslessMost
	for range losslessSteps {
		w.traffic.Rate = (low + high) / 2
		r, err := b.measure(ctx, w, c, f)
		if err != nil {
			return 0, err
		}
		if r.Lost <= int64(r.SinkDropped) {
			low = w.traffic.Rate
		} else {
			high = w.traffic.Rate
		}
	}
	return low, nil
}

// memoryFlood is how long a daemon is flooded whose upstreams take nothing.
const memoryFlood = 4 * time.Second

// Memory is what a daemon occupies at most.
type Memory struct {
	PeakResident uint64 // bytes, flooded by both protocols, with upstreams that take nothing
	Bound        uint64 // bytes that are promised
}

// memory floods a daemon whose upstreams take connections, and nothing else, so
// that its queues are full.
func (b *bench) memory(ctx context.Context) (m *Memory, err error) {
	stalled, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts; nobody reads
	if err != nil {
		return nil, err
	}
	defer stalled.Close()
	to := "tcp://" + stalled.Addr().String()
	d, err := b.startDaemon(ctx, b.binary, defaultCoalesce, to, to)
	if err != nil {
		return nil, err
	}
	defer d.stop()
	for _, t := range []Traffic{
		{Protocol: statsd, Senders: 4, PerWrite: 28},
		{Protocol: carbon, Senders: 8, PerWrite: 1000},
	} {
		port, err := d.port(t.Protocol)
		if err != nil {
			return nil, err
		}
		gen, err := startGenerator(ctx, generatorSpec{Traffic: t, Port: port, Duration: memoryFlood})
		if err != nil {
			return nil, err
		}
		defer func() {
			var done generatorReport
			err = errors.Join(err, gen.hear(&done))
			gen.stop()
		}()
	}
	if err := pause(ctx, memoryFlood); err != nil {
		return nil, err
	}
	_, peak, err := resident(d.pid())
	return &Memory{PeakResident: peak, Bound: 48<<20 + queueBytes}, err
}

// Pure is the speed of the functions that cut, check and rewrite lines.
type Pure struct {
	StatsD, Carbon float64 // bytes a second
	Allocs         int     // of both together
}

// pure runs the micro-benchmarks of internal/line.
func (b *bench) pure(ctx context.Context) (*Pure, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", "^BenchmarkAppend$/^(statsd|carbon)$/^matched$", "-benchtime", "300ms", "-count", "5",
		"github.com/prefixproxy/prefixproxy/internal/line")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	p := &Pure{}
	var statsdErr, carbonErr error
	p.StatsD, p.Allocs, statsdErr = readBenchmark(string(out), "statsd/matched")
	var allocs int
	p.Carbon, allocs, carbonErr = readBenchmark(string(out), "carbon/matched")
	p.Allocs += allocs
	return p, errors.Join(statsdErr, carbonErr)
}

// readBenchmark finds a benchmark in the output of `go test -bench`: the median
// of its speed, in bytes a second, and its allocations.
func readBenchmark(output, name string) (speed float64, allocs int, err error) {
	line := regexp.MustCompile(`(?m)^Benchmark\w+/` + regexp.QuoteMeta(name) + `(?:-\d+)?\s.*\s([\d.]+) MB/s.*\s(\d+) allocs/op$`)
	var speeds []float64
	for _, match := range line.FindAllStringSubmatch(output, -1) {
		mb, err := strconv.ParseFloat(match[1], 64)
		if err != nil {
			return 0, 0, err
		}
		n, err := strconv.Atoi(match[2])
		if err != nil {
			return 0, 0, err
		}
		speeds, allocs = append(speeds, mb*1e6), max(allocs, n)
	}
	if len(speeds) == 0 {
		return 0, 0, fmt.Errorf("no benchmark %s in:\n%s", name, output)
	}
	return median(speeds), allocs, nil
}
