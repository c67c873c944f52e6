//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Those that count StatsD. All flush every ten seconds into the sink's Carbon.
var (
	theCounter  = &contender{name: "prefixproxy, counting", start: (*bench).countByDaemon}
	theStatsD   = &contender{name: "statsd", start: (*bench).countByStatsD, program: "node", needsStatsD: true}
	theGoStatsD = &contender{name: "gostatsd", start: (*bench).countByGoStatsD, program: "gostatsd"}
	theStatsite = &contender{name: "statsite", start: (*bench).countByStatsite, program: "statsite"}
	theBrubeck  = &contender{name: "brubeck", start: (*bench).countByBrubeck, program: "brubeck"}
)

func (b *bench) countByDaemon(ctx context.Context, w work) (*forwarder, error) {
	return b.forwardTo(ctx, b.binary, w, "carbon:")
}

const statsdConfig = `{
	server: './servers/udp', address: '127.0.0.1', port: %[1]d, mgmt_address: '127.0.0.1', mgmt_port: %[2]d,
	backends: ['./backends/graphite'], graphiteHost: '127.0.0.1', graphitePort: %[3]d,
	flushInterval: 10000, graphite: {legacyNamespace: false}
}`

// countByStatsD starts statsd 0.9 itself.
func (b *bench) countByStatsD(ctx context.Context, _ work) (*forwarder, error) {
	management, err := freePort()
	if err != nil {
		return nil, err
	}
	return b.startCounter(ctx, management, statsdConfig, func(config string) *exec.Cmd {
		cmd := exec.CommandContext(ctx, "node", "stats.js", config)
		cmd.Dir = b.statsdDir
		return cmd
	})
}

const gostatsdConfig = `
metrics-addr = "127.0.0.1:%[1]d"
backends = "graphite"
flush-interval = "10s"
[graphite]
address = "127.0.0.1:%[3]d"
mode = "basic"
`

func (b *bench) countByGoStatsD(ctx context.Context, _ work) (*forwarder, error) {
	return b.startCounter(ctx, 0, gostatsdConfig, func(config string) *exec.Cmd {
		return exec.CommandContext(ctx, "gostatsd", "--config-path", config)
	})
}

// Its sink is a process of its own, whose CPU time is not counted.
const statsiteConfig = `
[statsite]
bind_address=127.0.0.1
port=%[1]d
udp_port=%[1]d
log_level=ERROR
flush_interval=10
stream_cmd=bash -c 'cat >/dev/tcp/127.0.0.1/%[3]d'
`

func (b *bench) countByStatsite(ctx context.Context, _ work) (*forwarder, error) {
	return b.startCounter(ctx, 0, statsiteConfig, func(config string) *exec.Cmd {
		return exec.CommandContext(ctx, "statsite", "-f", config)
	})
}

const brubeckConfig = `{
	"server_name": "brubeck", "dumpfile": "/dev/null", "capacity": 17, "expire": 20,
	"backends": [{"type": "carbon", "address": "127.0.0.1", "port": %[3]d, "frequency": 10}],
	"samplers": [{"type": "statsd", "address": "127.0.0.1", "port": %[1]d, "workers": 1, "multimsg": 8}]
}`

func (b *bench) countByBrubeck(ctx context.Context, _ work) (*forwarder, error) {
	return b.startCounter(ctx, 0, brubeckConfig, func(config string) *exec.Cmd {
		return exec.CommandContext(ctx, "brubeck", "--config", config)
	})
}

// startCounter starts a program with a configuration, in which stand the port where it
// is to listen, that of its management, and the sink's. Without management it listens
// to TCP beside UDP, or is given time.
func (b *bench) startCounter(ctx context.Context, management int, config string, command func(config string) *exec.Cmd) (*forwarder, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(b.dir, fmt.Sprintf("counter-%d.toml", port))
	if err := os.WriteFile(file, fmt.Appendf(nil, config, port, management, b.sink.ports.Carbon), 0o600); err != nil {
		return nil, err
	}
	return startPeer(ctx, command(file), port, management)
}
