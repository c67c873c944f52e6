//go:build linux

package main

import (
	"context"
	"fmt"
	"os/exec"
)

// A forwarder is a running process between generator and sink.
type forwarder struct {
	port  int // where it takes lines, on 127.0.0.1
	pid   int // 0: there is none
	drops func(context.Context) (uint64, error)
	stop  func()
}

// A contender is a kind of forwarder.
type contender struct {
	name  string
	start func(*bench, context.Context, work) (*forwarder, error)

	leaves  string // the name under which lines leave it
	program string // that must be installed; "": none
	aside   bool   // measured in some rounds only

	needsStatsD bool // a directory of statsd
}

// The contenders. Ratios are against the least.
var (
	theDaemon = &contender{name: "prefixproxy", start: (*bench).forwardByDaemon, leaves: nameOut}
	theOther  = &contender{name: "prefixproxy, other version", start: (*bench).forwardByOther, leaves: nameOut}
	theUnkept = &contender{name: "prefixproxy, queue in no file", start: (*bench).forwardByUnkept, leaves: nameOut}
	theLeast  = &contender{name: "least", start: (*bench).forwardByLeast, leaves: nameOut}
	thePlain  = &contender{name: "plain loop", start: (*bench).forwardByPlain, leaves: nameOut, aside: true}
	theRelay  = &contender{name: "carbon-c-relay", start: relayPeer.start, leaves: nameOut, program: "carbon-c-relay", aside: true}
	theNode   = &contender{name: "statsd proxy.js", start: nodePeer.start, leaves: nameIn, program: "node", needsStatsD: true, aside: true}
	theDirect = &contender{name: "no forwarder", start: (*bench).forwardDirectly, leaves: nameIn}

	theCounter  = &contender{name: "prefixproxy, counting", start: (*bench).countByDaemon}
	theStatsD   = &contender{name: "statsd", start: statsdPeer.start, program: "node", needsStatsD: true}
	theGoStatsD = &contender{name: "gostatsd", start: gostatsdPeer.start, program: "gostatsd"}
	theStatsite = &contender{name: "statsite", start: statsitePeer.start, program: "statsite"}
	theBrubeck  = &contender{name: "brubeck", start: brubeckPeer.start, program: "brubeck"}
)

// missing says why a contender cannot take part; "" when it can.
func (b *bench) missing(c *contender) string {
	if c.needsStatsD && b.statsdDir == "" {
		return "no directory of statsd is given (-statsd)"
	}
	if c.program == "" {
		return ""
	}
	if _, err := exec.LookPath(c.program); err != nil {
		return c.program + " is not installed"
	}
	return ""
}

func (b *bench) forwardDirectly(_ context.Context, w work) (*forwarder, error) {
	return &forwarder{port: b.sink.port(w.traffic.Protocol), stop: func() {}}, nil
}

func (b *bench) forwardByLeast(ctx context.Context, w work) (*forwarder, error) {
	return b.forwardByPart(ctx, "least", w)
}

func (b *bench) forwardByPlain(ctx context.Context, w work) (*forwarder, error) {
	return b.forwardByPart(ctx, "plain", w)
}

func (b *bench) forwardByPart(ctx context.Context, part string, w work) (*forwarder, error) {
	t := w.traffic
	process, err := startPart(ctx, part, leastSpec{
		Protocol: t.Protocol, Senders: t.Senders, Port: b.sink.port(t.Protocol), Gather: w.coalesce,
	})
	if err != nil {
		return nil, err
	}
	var at listening
	if err := process.hear(&at); err != nil {
		process.stop()
		return nil, fmt.Errorf("start the %s forwarder: %w", part, err)
	}
	return &forwarder{port: at.Port, pid: process.pid(), stop: process.stop}, nil
}

func (b *bench) forwardByDaemon(ctx context.Context, w work) (*forwarder, error) {
	return b.forwardByBinary(ctx, b.binary, w)
}

func (b *bench) forwardByOther(ctx context.Context, w work) (*forwarder, error) {
	return b.forwardByBinary(ctx, b.other, w)
}

func (b *bench) countByDaemon(ctx context.Context, w work) (*forwarder, error) {
	return b.forwardTo(ctx, b.binary, w, "carbon:")
}

func (b *bench) forwardByUnkept(ctx context.Context, w work) (*forwarder, error) {
	if err := b.buildUnkept(ctx); err != nil {
		return nil, err
	}
	return b.forwardByBinary(ctx, b.unkept, w)
}

func (b *bench) forwardByBinary(ctx context.Context, binary string, w work) (*forwarder, error) {
	return b.forwardTo(ctx, binary, w, fmt.Sprintf("udp://127.0.0.1:%d", b.sink.ports.StatsD))
}

// forwardTo starts a daemon whose StatsD goes to an upstream, and Carbon to the sink.
func (b *bench) forwardTo(ctx context.Context, binary string, w work, statsdTo string) (*forwarder, error) {
	d, err := b.startDaemon(ctx, binary, w.coalesce, statsdTo, fmt.Sprintf("tcp://127.0.0.1:%d", b.sink.ports.Carbon))
	if err != nil {
		return nil, err
	}
	port, err := d.port(w.traffic.Protocol)
	if err != nil {
		d.stop()
		return nil, err
	}
	return &forwarder{port: port, pid: d.pid(), drops: d.drops, stop: d.stop}, nil
}
