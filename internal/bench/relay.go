//go:build linux

package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// relayConfig makes carbon-c-relay rewrite as the daemon does.
const relayConfig = `
cluster sink forward 127.0.0.1:%d;
rewrite ^host\.(.*) into Denali.\1;
match * send to sink stop;
listen type linemode 127.0.0.1:%d proto tcp;
`

// forwardByRelay starts carbon-c-relay, as Debian packages it.
func (b *bench) forwardByRelay(ctx context.Context, _ work) (*forwarder, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.dir, "carbon-c-relay.conf")
	if err := os.WriteFile(config, fmt.Appendf(nil, relayConfig, b.sink.ports.Carbon, port), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "carbon-c-relay", "-f", config, "-s")
	return startPeer(ctx, cmd, port, port)
}

// nodeConfig is that of the proxy that statsd brings with it. It does not
// rewrite. The sink tells it that it lives.
const nodeConfig = `{
	nodes: [{host: '127.0.0.1', port: %d, adminport: %d}],
	server: './servers/udp', host: '127.0.0.1', port: %d,
	mgmt_address: '127.0.0.1', mgmt_port: %d,
	forkCount: 0, checkInterval: 1000, cacheSize: 10000
}`

// forwardByNode starts statsd's proxy.js.
func (b *bench) forwardByNode(ctx context.Context, _ work) (*forwarder, error) {
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	management, err := freePort()
	if err != nil {
		return nil, err
	}
	config := filepath.Join(b.dir, "proxy.js")
	text := fmt.Appendf(nil, nodeConfig, b.sink.ports.StatsD, b.sink.ports.Health, port, management)
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "node", filepath.Join(b.statsdDir, "proxy.js"), config)
	return startPeer(ctx, cmd, port, management)
}

// startPeer starts a program that is not ours, and waits until it accepts TCP
// connections on a port, if there is one.
func startPeer(ctx context.Context, cmd *exec.Cmd, port, accepts int) (*forwarder, error) {
	process, err := startProgram(cmd)
	if err != nil {
		return nil, err
	}
	err = await(ctx, cmd.Path, func(ctx context.Context) error {
		if accepts == 0 {
			return nil
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", accepts))
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err == nil {
		err = pause(ctx, time.Second) // it has yet to find its upstream
	}
	if err != nil {
		process.stop()
		return nil, err
	}
	return &forwarder{port: port, pid: process.pid(), stop: process.stop}, nil
}

// freePort returns a port of 127.0.0.1 that was free just now, by TCP and UDP.
func freePort() (int, error) {
	for {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return 0, err
		}
		port := tcpPort(ln)
		packets, err := net.ListenPacket("udp", ln.Addr().String())
		ln.Close()
		if err == nil {
			packets.Close()
			return port, nil
		}
	}
}
