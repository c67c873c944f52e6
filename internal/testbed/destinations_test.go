package testbed

import (
	"fmt"
	"maps"
	"net"
	"strings"
	"testing"
	"time"
)

// Two Graphites, each of which is to get every line.
const destinationsConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: []
  carbon: ["tcp://127.0.0.1:0"]
forward:
  carbon:
    - {name: main, to: ["tcp://${MAIN}"], queue: 1MiB}
    - {name: dr, to: ["tcp://${DR}"], queue: 1MiB}
telemetry:
  statsd: false
`

// One destination in trouble costs the other neither lines nor time, and gets all in the
// end, though the daemon be killed meanwhile.
func TestTwoDestinations(t *testing.T) {
	t.Parallel()
	for name, trouble := range map[string]manner{
		"down":   {Refuse: true},
		"stalls": {Stall: true},
		"slow":   {PerSecond: 50_000},
		"flaps":  {HangUp: 100 * time.Millisecond, Lose: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			const rounds, batch = 6, 10_000
			dir, main, dr := t.TempDir(), startSink(t), startSink(t)
			start := func() *daemon {
				d := startDaemonIn(t, dir, destinationsConfig, "ETCD="+embeddedEtcd(t), "MAIN="+main.Addr, "DR="+dr.Addr)
				d.AwaitName(t, "Denali")
				return d
			}
			want := map[string]bool{}
			put := func(d *daemon, round int) {
				conn, err := net.Dial("tcp", d.Address(t, "carbon", "tcp://"))
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				var lines strings.Builder
				for i := range batch {
					want[fmt.Sprintf("Denali.r%d.n%d 1 1700000000", round, i)] = true
					fmt.Fprintf(&lines, "host.r%d.n%d 1 1700000000\n", round, i)
				}
				if _, err := conn.Write([]byte(lines.String())); err != nil {
					t.Fatal(err)
				}
				main.Await(t, fmt.Sprintf("Denali.r%d.n%d ", round, batch-1))
			}
			d := start()
			put(d, 0)
			dr.Await(t, fmt.Sprintf("Denali.r0.n%d ", batch-1))
			dr.Behave(manner{Refuse: true}) // no connection stays
			dr.Behave(trouble)
			for round := 1; round < rounds; round++ {
				put(d, round)
				if round == rounds/2 {
					d.Kill()
					d = start()
				}
			}
			if strings.Contains(dr.Text(), fmt.Sprintf("Denali.r%d.n%d ", rounds-1, batch-1)) {
				t.Fatal("the destination in trouble has all lines already")
			}
			dr.Behave(manner{})
			for _, r := range []*receiver{main, dr} {
				eventually(t, "all lines", func() error {
					missing := maps.Clone(want)
					for _, ln := range r.Lines() {
						delete(missing, ln)
					}
					if len(missing) > 0 {
						return fmt.Errorf("%d of %d are missing at %s", len(missing), len(want), r.Addr)
					}
					return nil
				})
			}
			checkBooks(t, d.AwaitReady(t))
		})
	}
}
