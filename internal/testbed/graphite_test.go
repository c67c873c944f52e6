package testbed

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cactus/go-statsd-client/v5/statsd"
)

// The main job, with every kind of listener in front of a real Graphite. The
// name is followed by another node, so that a line grows by 6 bytes.
const graphiteConfig = `
etcd:
  endpoints: ["${ETCD}"]
rewrite:
  to: "{name}.app"
listen:
  statsd: [udp://127.0.0.1:0, "udp://[::1]:0", tcp://127.0.0.1:0, "tcp://[::1]:0", "unixgram://${DIR}/statsd-dgram", "unix://${DIR}/statsd"]
  carbon: [udp://127.0.0.1:0, "udp://[::1]:0", tcp://127.0.0.1:0, "tcp://[::1]:0", "unixgram://${DIR}/carbon-dgram", "unix://${DIR}/carbon"]
forward:
  statsd: {to: ["${STATSD}"]}
  carbon: {to: ["tcp://${CARBON}"]}
`

// ways are the listeners of graphiteConfig: how a client reaches each, and
// how its address begins.
var ways = []struct{ name, network, prefix string }{
	{"udp4", "udp", "udp://127.0.0.1:"},
	{"udp6", "udp", "udp://[::1]:"},
	{"tcp4", "tcp", "tcp://127.0.0.1:"},
	{"tcp6", "tcp", "tcp://[::1]:"},
	{"unixgram", "unixgram", "unixgram://"},
	{"unix", "unix", "unix://"},
}

// Metrics arrive in a real Graphite under the name that the host claimed in a
// real etcd, with their values, and nothing arrives under host.
func TestGraphite(t *testing.T) {
	for _, tt := range []struct {
		name     string
		etcd     func(testing.TB) (endpoint string)
		toStatsD string // scheme of the upstream
	}{
		{"embedded etcd, statsd by UDP", embeddedEtcd, "udp"},
		{"Debian's etcd, statsd by TCP", debianEtcd, "tcp"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			carbon := newCarbonCache(t)
			carbon.Start(t)
			statsdServer := startPlainStatsD(t, carbon.Addr)
			d := startDaemon(t, graphiteConfig, "ETCD="+tt.etcd(t), "CARBON="+carbon.Addr, "STATSD="+tt.toStatsD+"://"+statsdServer.Addr)
			d.AwaitReady(t)
			d.AwaitName(t, "Denali")

			now := time.Now().Unix()
			sendEverywhere(t, d, now)
			countRequests(t, d.Address(t, "statsd", "udp://127.0.0.1:"))
			sendAmongBadLines(t, d, now)

			for i, s := range ways {
				carbon.AwaitSum(t, float64(i+1), "Denali", "app", "statsd", s.name, "count")
				carbon.AwaitValue(t, now, float64(i)+0.5, "Denali", "app", "carbon", s.name)
			}
			carbon.AwaitSum(t, 1000, "Denali", "app", "client", "requests", "count")
			for i := range goodLines {
				carbon.AwaitValue(t, now, float64(i), "Denali", "app", "good", fmt.Sprint(i))
			}
			if carbon.Has("host") {
				t.Error("something was stored under host/")
			}
			checkBadLines(t, d)
			awaitTelemetry(t, carbon)
			if code := d.Stop(t); code != 0 {
				t.Errorf("exit code %d after SIGTERM, want 0", code)
			}
		})
	}
}

func debianEtcd(t testing.TB) string {
	t.Helper()
	server := newEtcd(t)
	server.Start(t)
	return server.Endpoint
}

// sendEverywhere sends a line of each protocol to each socket, with a value of
// its own.
func sendEverywhere(t testing.TB, d *daemon, now int64) {
	t.Helper()
	for i, s := range ways {
		send(t, s.network, d.Address(t, "statsd", s.prefix), fmt.Sprintf("host.statsd.%s:%d|c\n", s.name, i+1))
		send(t, s.network, d.Address(t, "carbon", s.prefix), fmt.Sprintf("host.carbon.%s %d.5 %d\n", s.name, i, now))
	}
}

// countRequests counts to a thousand by the usual Go client.
func countRequests(t testing.TB, addr string) {
	t.Helper()
	client, err := statsd.NewClientWithConfig(&statsd.ClientConfig{Address: addr, Prefix: "host.client", UseBuffered: true})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if err := client.Inc("requests", 10, 1); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil { // sends what is buffered
		t.Fatal(err)
	}
}

const goodLines = 30

// The lines at which carbon-cache closes the connection, for a path prefix.
func badLine(kind, prefix string, now int64) string {
	if kind == "bad_utf8" {
		return fmt.Sprintf("%s.caf\xe9 1 %d\n", prefix, now)
	}
	tail := fmt.Sprintf(" 1 %d", now)
	return prefix + "." + strings.Repeat("x", 16_380-len("host.")-len(tail)) + tail + "\n"
}

// sendAmongBadLines sends good lines with bad ones among them, on one
// connection.
func sendAmongBadLines(t testing.TB, d *daemon, now int64) {
	t.Helper()
	var text strings.Builder
	for i := range goodLines {
		switch i {
		case 10:
			text.WriteString(badLine("bad_utf8", "host", now))
		case 20:
			text.WriteString(badLine("too_long", "host", now)) // 16,380 bytes here, 16,386 rewritten
		}
		fmt.Fprintf(&text, "host.good.%d %d %d\n", i, i, now)
	}
	send(t, "tcp", d.Address(t, "carbon", "tcp://127.0.0.1:"), text.String())
}

// checkBadLines checks that the bad lines, and no others, were refused, that a
// person can see them, and that the connection to carbon-cache held.
func checkBadLines(t testing.TB, d *daemon) {
	t.Helper()
	status := d.AwaitUp(t)
	checkBooks(t, status)
	if got := fmt.Sprint(status.Lines["carbon"].Dropped); got != "map[bad_utf8:1 too_long:1]" {
		t.Errorf("Carbon lines dropped: %s, want one bad_utf8 and one too_long", got)
	}
	if got := fmt.Sprint(status.Lines["statsd"].Dropped); got != "map[]" {
		t.Errorf("StatsD lines dropped: %s, want none", got)
	}
	if _, body, err := d.Get("/badlines"); err != nil || !strings.Contains(body, `"host.caf\xe9 1 `) || !strings.Contains(body, "too_long") {
		t.Errorf("/badlines: %v\n%s\nwant both lines", err, body)
	}
	if log := d.Stderr.Text(); strings.Contains(log, "upstream down") {
		t.Error("an upstream connection was lost")
	}
}

// awaitTelemetry waits until the daemon's own numbers are in Graphite.
func awaitTelemetry(t testing.TB, carbon *carbonCache) {
	t.Helper()
	eventually(t, "own telemetry", func() error {
		if !carbon.Has("Denali", "app", "prefixproxy") {
			return fmt.Errorf("nothing under Denali/app/prefixproxy")
		}
		return nil
	})
}

// The bad lines of the test above are really ones at which carbon-cache hangs
// up, as they would have been sent.
func TestCarbonClosesOnBadLines(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	for _, kind := range []string{"bad_utf8", "too_long"} {
		t.Run(kind, func(t *testing.T) {
			conn, err := net.Dial("tcp", carbon.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, badLine(kind, "Denali.app", time.Now().Unix())); err != nil {
				t.Fatal(err)
			}
			conn.SetReadDeadline(time.Now().Add(patience))
			if _, err := io.Copy(new(bytes.Buffer), conn); isTimeout(err) {
				t.Error("the connection is still open")
			}
		})
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}
