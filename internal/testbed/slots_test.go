//go:build linux

package testbed

import (
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/proxy"
)

const slotsConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen: {statsd: ["udp://127.0.0.1:0"], carbon: []}
rewrite: {unmatched: drop}
forward:
  statsd: {to: [carbon:]}
  carbon: {to: ["tcp://${CARBON}"]}
aggregate: {interval: 2s, percentiles: []}
telemetry:
  statsd: false
`

// A real carbon-cache that stores a point every two seconds has one of each slot, while
// the daemon is killed and restarted in the middle of slots, and their sum is what was
// sent. A slot is left out only if the daemon was started in it after a stop, or was away
// for all of it: what came is in the next.
func TestSlots(t *testing.T) {
	t.Parallel()
	const step = 2
	carbon := newCarbonCache(t)
	carbon.retain(t, "2s:1h")
	carbon.Start(t)
	vars := []string{"ETCD=" + embeddedEtcd(t), "CARBON=" + carbon.Addr}
	dir := t.TempDir()
	d := startDaemonIn(t, dir, slotsConfig, vars...)
	d.AwaitName(t, "Denali")
	type away struct{ from, to int64 } // Unix seconds
	var aways []away
	sent := 0
	for round := range 4 {
		conn, err := net.Dial("udp", d.Address(t, "statsd", "udp://"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		was := sent
		for range 25 + 30*(round%2) {
			if _, err := fmt.Fprint(conn, "host.x:1|c"); err != nil {
				t.Fatal(err)
			}
			sent++
			retry.Sleep(t.Context(), 50*time.Millisecond)
		}
		d.awaitBooks(t, "statsd", func(b proxy.Books) bool { return b.Received == uint64(sent-was) })
		from := time.Now().Unix()
		if round%2 == 0 {
			d.Kill()
		} else if code := d.Stop(t); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		d = startDaemonIn(t, dir, slotsConfig, vars...)
		d.AwaitName(t, "Denali")
		aways = append(aways, away{from, time.Now().Unix()})
	}
	d.Stop(t)
	carbon.AwaitSum(t, float64(sent), "Denali", "x", "count")

	stored := map[int64]bool{}
	var seconds []int64
	for _, p := range carbon.Points(t, "Denali", "x", "count") {
		stored[p.Time] = true
		seconds = append(seconds, p.Time)
	}
	slices.Sort(seconds)
	for s := seconds[0]; s < seconds[len(seconds)-1]; s += step {
		wasAway := slices.ContainsFunc(aways, func(a away) bool { return s+step > a.from && s <= a.to })
		if !stored[s] && !wasAway {
			t.Errorf("there is no point at %d: got %v, the daemon was away in %v", s, seconds, aways)
		}
	}
	t.Logf("%d increments in %d slots", sent, len(seconds))
}
