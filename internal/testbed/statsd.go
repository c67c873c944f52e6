package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A StatsD is a real statsd that flushes to a carbon-cache every second, by
// plain names: the counter a.b is stored as a.b.count and a.b.rate.
type StatsD struct {
	Addr    string // host:port, UDP and TCP
	Console int    // port of its management
	*Process

	node, home, config string
}

// StartStatsD starts a statsd in front of the carbon-cache at carbon.
func StartStatsD(t testing.TB, carbon string) *StatsD {
	t.Helper()
	home := os.Getenv("PREFIXPROXY_TEST_STATSD")
	if home == "" {
		missing(t, "PREFIXPROXY_TEST_STATSD names no directory of npm's statsd")
	}
	node := lookPath(t, "node", "nodejs")
	port, console := sidebyside.FreePort(t), sidebyside.FreePort(t)
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	var carbonPort int
	if _, err := fmt.Sscanf(carbon, "127.0.0.1:%d", &carbonPort); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "config.js")
	text := fmt.Sprintf(`{
  servers: [
    {server: "./servers/udp", address: "127.0.0.1", port: %[1]d},
    {server: "./servers/tcp", address: "127.0.0.1", port: %[1]d},
  ],
  mgmt_address: "127.0.0.1", mgmt_port: %[2]d,
  backends: ["./backends/graphite"], graphiteHost: "127.0.0.1", graphitePort: %[3]d,
  graphite: {legacyNamespace: false, globalPrefix: "", prefixCounter: "", prefixGauge: "", prefixTimer: "", prefixSet: ""},
  flushInterval: 1000, deleteIdleStats: true,
}
`, port, console, carbonPort)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &StatsD{Addr: addr, Console: console, node: node, home: home, config: config}
	s.Restart(t)
	return s
}

// Restart starts the server again, after a Kill.
func (s *StatsD) Restart(t testing.TB) {
	t.Helper()
	cmd := exec.Command(s.node, "stats.js", s.config)
	cmd.Dir = s.home
	s.Process = Start(t, cmd)
	awaitListening(t, s.Process, s.Addr)
	awaitListening(t, s.Process, fmt.Sprintf("127.0.0.1:%d", s.Console))
}
