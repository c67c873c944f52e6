package testbed

import (
	"errors"
	"path/filepath"
	"testing"
)

// A real statsd, which repeats gauges for ever, hears 0 of a name that is let go because
// somebody asked for it, and 1 of the next.
func TestLastWords(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	statsd := startPlainStatsD(t, carbon.Addr)
	vars := []string{"ETCD=" + embeddedEtcd(t), "STATSD=" + statsd.Addr}
	d := startDaemon(t, `
etcd: {endpoints: ["${ETCD}"]}
listen: {statsd: [udp://127.0.0.1:0], carbon: []}
forward: {statsd: {to: ["udp://${STATSD}"]}}
`, vars...)
	d.AwaitName(t, "Denali")
	last := func(name string, want float64) {
		t.Helper()
		eventually(t, name+".prefixproxy.claim_held", func() error {
			points := carbon.Points(t, name, "prefixproxy", "claim_held")
			if n := len(points); n == 0 || points[n-1].Value != want {
				return errors.New("it is not that yet")
			}
			return nil
		})
	}
	last("Denali", 1)
	if out, err := program(t, append(vars, "DIR="+d.Dir), "release", "--config", filepath.Join(d.Dir, "config.yaml"), "Denali").CombinedOutput(); err != nil {
		t.Fatalf("release: %v\n%s", err, out)
	}
	last("Denali", 0)
	d.AwaitName(t, "MtLogan")
	last("MtLogan", 1)
	last("Denali", 0)
}
