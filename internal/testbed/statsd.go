package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A statsD is a real statsd.
type statsD struct {
	Addr    string // host:port, UDP and TCP
	Console int    // port of its management
	*process

	home string
	args []string // of node
}

// plainStatsD makes statsd write plain names: the counter a.b is stored as a.b.count and
// a.b.rate.
const plainStatsD = `legacyNamespace: false, globalPrefix: "", prefixCounter: "", prefixGauge: "", prefixTimer: "", prefixSet: ""`

// startPlainStatsD starts a statsd that flushes to the carbon-cache at carbon every second, by
// plain names.
func startPlainStatsD(t testing.TB, carbon string) *statsD {
	t.Helper()
	return startStatsD(t, carbon, "graphite: {"+plainStatsD+"}, flushInterval: 1000, deleteIdleStats: true")
}

// startStatsD starts a statsd with some settings, and options of node.
func startStatsD(t testing.TB, carbon, settings string, options ...string) *statsD {
	t.Helper()
	home := os.Getenv("PREFIXPROXY_TEST_STATSD")
	if home == "" {
		missing(t, "PREFIXPROXY_TEST_STATSD names no directory of npm's statsd")
	}
	lookPath(t, "node", "nodejs")
	port, console := sidebyside.FreePort(t), sidebyside.FreePort(t)
	var carbonPort int
	if _, err := fmt.Sscanf(carbon, "127.0.0.1:%d", &carbonPort); err != nil {
		t.Fatal(err)
	}
	config := writeFile(t, fmt.Sprintf(`{
  servers: [
    {server: "./servers/udp", address: "127.0.0.1", port: %[1]d},
    {server: "./servers/tcp", address: "127.0.0.1", port: %[1]d},
  ],
  mgmt_address: "127.0.0.1", mgmt_port: %[2]d,
  backends: ["./backends/graphite"], graphiteHost: "127.0.0.1", graphitePort: %[3]d,
  %[4]s
}
`, port, console, carbonPort, settings), t.TempDir(), "config.js")
	s := &statsD{Addr: fmt.Sprintf("127.0.0.1:%d", port), Console: console, home: home, args: append(options, "stats.js", config)}
	s.Restart(t)
	return s
}

// Restart starts the server again, after a Kill.
func (s *statsD) Restart(t testing.TB) {
	t.Helper()
	cmd := exec.Command("node", s.args...)
	cmd.Dir = s.home
	s.process = start(t, cmd)
	awaitListening(t, s.process, s.Addr)
	awaitListening(t, s.process, fmt.Sprintf("127.0.0.1:%d", s.Console))
}
