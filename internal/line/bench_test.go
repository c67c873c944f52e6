package line

import (
	"bytes"
	"strings"
	"testing"
)

// What a busy host's applications send, a datagram and a write's worth.
const (
	statsdInput = "host.api.requests:1|c\n" +
		"host.api.latency.checkout:127.35|ms|@0.1\n" +
		"host.workers.queue_depth:+3|g\n" +
		"host.api.responses.200:1|c|#region:eu-west-1,canary:false\n" +
		"host.db.pool.connections.in_use:17|g\n" +
		"host.sessions.users:8412c1ff|s\n"
	carbonInput = "host.cpu.0.user 3.4 1763848800\n" +
		"host.memory.buffers_cached 1289748480 1763848800\n" +
		"host.disk.sda1.io_time.milliseconds 0.0025 1763848800\n" +
		"host.net.eth0.rx_bytes;dc=fra1;rack=b12 918273645 1763848800\n" +
		"host.jvm.gc.pause.p99 1.25e-3 1763848800\n"
)

func BenchmarkAppend(b *testing.B) {
	for _, bm := range []struct {
		name     string
		protocol Protocol
		input    string
	}{
		{"statsd/matched", StatsD, statsdInput},
		{"statsd/unmatched", StatsD, strings.ReplaceAll(statsdInput, "host.", "shop.")},
		{"carbon/matched", Carbon, carbonInput},
		{"carbon/long", Carbon, strings.Repeat("host.r07.s03.t0000001234567890 000000000042 4000000000\n", 5)},
		{"carbon/tagged", Carbon, strings.Repeat("host.http.requests;dc=ams;rack=r07;env=prod 1234.5 1763848800\n", 5)},
		{"carbon/now", Carbon, strings.ReplaceAll(carbonInput, "1763848800", "-1")},
	} {
		b.Run(bm.name, func(b *testing.B) {
			w := hostRules.Rewriter(bm.protocol, "Denali")
			input := bytes.Repeat([]byte(bm.input), 10)
			dst := make([]byte, 0, 2*len(input))
			b.SetBytes(int64(len(input)))
			b.ReportAllocs()
			for b.Loop() {
				dst = appendAll(w, dst[:0], input)
			}
			lines := bytes.Count(input, []byte("\n"))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
		})
	}
}
