//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A peer is a program that is not ours, with its configuration: in that stand its port (1),
// the port of its management (2), and the sink's, of Carbon (3), of StatsD (4), and where
// it says that it lives (5). It is run in the directory of statsd.
type peer struct {
	command []string // with configFile among its arguments
	ready   int      // which of its ports accepts TCP; 0: none
	config  string
}

const configFile = "FILE"

// Those that forward. The last does not rewrite.
var (
	relayPeer = peer{[]string{"carbon-c-relay", "-f", configFile, "-s"}, 1, `
cluster sink forward 127.0.0.1:%[3]d;
rewrite ^host\.(.*) into Denali.\1;
match * send to sink stop;
listen type linemode 127.0.0.1:%[1]d proto tcp;
`}

	nodePeer = peer{[]string{"node", "proxy.js", configFile}, 2, `{
	nodes: [{host: '127.0.0.1', port: %[4]d, adminport: %[5]d}],
	server: './servers/udp', host: '127.0.0.1', port: %[1]d,
	mgmt_address: '127.0.0.1', mgmt_port: %[2]d,
	forkCount: 0, checkInterval: 1000, cacheSize: 10000
}`}
)

// Those that count StatsD. All flush every ten seconds into the sink's Carbon.
var (
	statsdPeer = peer{[]string{"node", "stats.js", configFile}, 2, `{
	server: './servers/udp', address: '127.0.0.1', port: %[1]d, mgmt_address: '127.0.0.1', mgmt_port: %[2]d,
	backends: ['./backends/graphite'], graphiteHost: '127.0.0.1', graphitePort: %[3]d,
	flushInterval: 10000, graphite: {legacyNamespace: false}
}`}

	gostatsdPeer = peer{[]string{"gostatsd", "--config-path", configFile}, 0, `
metrics-addr = "127.0.0.1:%[1]d"
backends = "graphite"
flush-interval = "10s"
[graphite]
address = "127.0.0.1:%[3]d"
mode = "basic"
`}

	// Its sink is a process of its own, whose CPU time is not counted.
	statsitePeer = peer{[]string{"statsite", "-f", configFile}, 0, `
[statsite]
bind_address=127.0.0.1
port=%[1]d
udp_port=%[1]d
log_level=ERROR
flush_interval=10
stream_cmd=bash -c 'cat >/dev/tcp/127.0.0.1/%[3]d'
`}

	brubeckPeer = peer{[]string{"brubeck", "--config", configFile}, 0, `{
	"server_name": "brubeck", "dumpfile": "/dev/null", "capacity": 17, "expire": 20,
	"backends": [{"type": "carbon", "address": "127.0.0.1", "port": %[3]d, "frequency": 10}],
	"samplers": [{"type": "statsd", "address": "127.0.0.1", "port": %[1]d, "workers": 1, "multimsg": 8}]
}`}
)

// start starts the program, and waits until it is ready.
func (p peer) start(b *bench, ctx context.Context, _ work) (*forwarder, error) {
	ports := make([]int, 2)
	for i := range ports {
		port, err := sidebyside.Port()
		if err != nil {
			return nil, err
		}
		ports[i] = port
	}
	file := filepath.Join(b.dir, fmt.Sprintf("peer-%d.toml", ports[0])) // gostatsd asks for that
	to := b.sink.ports
	text := fmt.Appendf(nil, p.config, ports[0], ports[1], to.Carbon, to.StatsD, to.Health)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	args := slices.Clone(p.command)
	args[slices.Index(args, configFile)] = file
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = b.statsdDir
	process, err := startProgram(cmd)
	if err != nil {
		return nil, err
	}
	err = await(ctx, args[0], func(context.Context) error {
		if p.ready > 0 {
			return answers("tcp", ports[p.ready-1])
		}
		return answers("udp", ports[0])
	})
	if err == nil {
		err = pause(ctx, time.Second) // it has yet to find its upstream
	}
	if err != nil {
		process.stop()
		return nil, err
	}
	return &forwarder{port: ports[0], pid: process.pid(), stop: process.stop}, nil
}

// answers returns an error if nobody listens at a port of 127.0.0.1: a datagram that
// nobody takes comes back at once.
func answers(network string, port int) error {
	conn, err := net.Dial(network, fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer conn.Close()
	if network == "udp" {
		conn.Write([]byte("\n"))
		conn.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, err := conn.Read(make([]byte, 1)); errors.Is(err, unix.ECONNREFUSED) {
			return err
		}
	}
	return nil
}
