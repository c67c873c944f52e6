package proxy

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	datadog "github.com/DataDog/datadog-go/v5/statsd"
)

// The client of DogStatsD, by all that it knows: at every flush, and with packets
// that it fills to the brim.
func TestDatadogClient(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"", "unix://", "unixstream://", "unixgram://"} {
		t.Run(transport, func(t *testing.T) {
			statsd := newSink(t, "tcp")
			cfg := testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}})
			network := "udp"
			switch transport {
			case "unix://", "unixstream://":
				network = "unix"
			case "unixgram://":
				network = "unixgram"
			}
			at := Address{Network: network, Host: "127.0.0.1"}
			if network != "udp" {
				at.Path = socketPath(t, "s")
			}
			cfg.Listen.StatsD = []Address{at}
			p := start(t, cfg, holding("Denali"))
			target := transport + at.Path
			if network == "udp" {
				target = p.inlet.Listeners()[0].Address.HostPort()
			}
			client, err := datadog.New(target, datadog.WithoutTelemetry(), datadog.WithoutClientSideAggregation(), datadog.WithSenderQueueSize(4096), datadog.WithWriteTimeout(time.Minute))
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			const lines, each = 1000, 50
			var want []string
			for i := range lines {
				if err := client.Incr(fmt.Sprintf("host.n%d", i), []string{"tag:" + strings.Repeat("x", i%200)}, 1); err != nil {
					t.Fatal(err)
				}
				want = append(want, fmt.Sprintf("Denali.n%d:1|c", i))
				if i%each == 0 {
					client.Flush()
				}
			}
			client.Flush()
			var got []string
			for _, ln := range statsd.next(lines) {
				got = append(got, ln[:strings.Index(ln, "|#")])
			}
			slices.Sort(got)
			slices.Sort(want)
			if !slices.Equal(got, want) {
				t.Errorf("the lines are not those that were sent")
			}
			if b := balance(t, p.Proxy)["statsd"]; b.Received != lines {
				t.Errorf("%d lines received, want %d: %v", b.Received, lines, b.Dropped)
			}
		})
	}
}

// A stream that nobody understands is counted by its lines, and shown once a read.
func TestMisframedStream(t *testing.T) {
	statsd := newSink(t, "tcp")
	p := start(t, testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}}), holding("Denali"))
	conn := p.dial(t, "statsd", 1)
	text := numbered("host.n%d:1|c", 0, 10)
	write(t, conn, string([]byte{0, 0, 0, byte(len(text))})+text)
	eventually(t, "it is dropped", func() bool { return balance(t, p.Proxy)["statsd"].Dropped["framing"] == 10 })
	statsd.none()
}
