//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/admin"
)

// daemonConfig is the configuration of a daemon as users run it: the defaults,
// but for its places, for how long input gathers, and without a spool: what comes
// back from that comes out of order, which would be taken for a fault.
const daemonConfig = `
membership: {state_dir: "%[1]s/state", pool: "%[6]s"}
etcd: {endpoints: ["%[2]s"]}
listen:
  statsd: ["udp://localhost:0", "tcp://localhost:0"]
  carbon: ["tcp://localhost:0", "udp://localhost:0"]
rewrite: {unmatched: drop}
coalesce: %[3]s
forward:
  statsd: {to: ["%[4]s"]}
  carbon: {to: ["%[5]s"], spool: 0}
admin: {listen: "unix://%[1]s/admin.sock"}
`

// queueBytes is the bound of its queues and of the replay window: the defaults.
const queueBytes = (16 + 64 + 4) << 20

// startTimeout bounds how long a forwarder may take to be ready.
const startTimeout = 20 * time.Second

// A daemon is a running `prefixproxy run`, with a claim held and all on.
type daemon struct {
	*child
	http   *http.Client
	dir    string
	status admin.Status // as of its start
}

// startDaemon starts the daemon between its applications and two upstreams.
func (b *bench) startDaemon(ctx context.Context, binary string, coalesce time.Duration, statsdTo, carbonTo string) (*daemon, error) {
	dir, err := os.MkdirTemp(b.dir, "daemon-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "config.yaml")
	text := fmt.Sprintf(daemonConfig, dir, b.etcd.Endpoint(), coalesce, statsdTo, carbonTo, filepath.Base(binary))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, binary, "run", "--log-level", "error", "--config", config)
	var log bytes.Buffer // read when it has ended
	cmd.Stderr = &log
	process, err := startProgram(cmd)
	if err != nil {
		return nil, err
	}
	d := &daemon{child: process, http: unixClient(filepath.Join(dir, "admin.sock")), dir: dir}
	if err := await(ctx, "the daemon", d.ready); err != nil {
		d.stop()
		return nil, fmt.Errorf("%w\n%s", err, &log)
	}
	return d, nil
}

// unixClient makes a client of the HTTP server on a unix socket.
func unixClient(path string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

// await asks until ready says yes, or ctx or the patience ends.
func await(ctx context.Context, who string, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		if pause(ctx, 20*time.Millisecond) != nil {
			return fmt.Errorf("wait for %s: %w", who, err)
		}
	}
}

// pause waits for d; an error says that ctx has ended.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// get asks the daemon for a page.
func (d *daemon) get(ctx context.Context, page string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://localhost"+page, nil)
	if err != nil {
		return nil, err
	}
	response, err := d.http.Do(request)
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close()
		return nil, fmt.Errorf("%s: %s", page, response.Status)
	}
	return response, nil
}

// ready asks whether a name is held and both upstreams are up.
func (d *daemon) ready(ctx context.Context) error {
	response, err := d.get(ctx, "/readyz")
	if err != nil {
		return err
	}
	response.Body.Close()
	if response, err = d.get(ctx, "/status.json"); err != nil {
		return err
	}
	defer response.Body.Close()
	if err := json.NewDecoder(response.Body).Decode(&d.status); err != nil {
		return err
	}
	if d.status.Name == nil || *d.status.Name != nameOut {
		return fmt.Errorf("the daemon does not hold %s yet", nameOut)
	}
	return nil
}

// port returns where the daemon listens on 127.0.0.1.
func (d *daemon) port(protocol string) (int, error) {
	scheme := "udp"
	if protocol == carbon {
		scheme = "tcp"
	}
	for _, l := range d.status.Listeners {
		u, err := url.Parse(l.Address)
		if err == nil && l.Protocol == protocol && u.Scheme == scheme && u.Hostname() == "127.0.0.1" {
			return strconv.Atoi(u.Port())
		}
	}
	return 0, fmt.Errorf("the daemon does not listen for %s by %s on 127.0.0.1", protocol, scheme)
}

// drops returns how many lines have been dropped, as the daemon counts: by
// itself, or as datagrams by the kernel at its sockets.
func (d *daemon) drops(ctx context.Context) (uint64, error) {
	response, err := d.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	var total float64
	lines := bufio.NewScanner(response.Body)
	for lines.Scan() {
		metric, value, _ := strings.Cut(lines.Text(), " ")
		if strings.HasPrefix(metric, "prefixproxy_lines_dropped_total{") || strings.HasPrefix(metric, "prefixproxy_kernel_drops_total{") {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, fmt.Errorf("metric %s: %w", metric, err)
			}
			total += n
		}
	}
	return uint64(total), lines.Err()
}
