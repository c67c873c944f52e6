package proxy

import (
	"log/slog"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/store"
)

// handOver does what an upstream does with what is ready, without a network.
func handOver(q queue) {
	switch q := q.(type) {
	case *statsdQueue:
		for b, _ := q.tryTake(); b != nil; b, _ = q.tryTake() {
			q.forward("upstream", b.lines)
			b.free()
		}
	case *carbonQueue:
		now := time.Now()
		c := q.store.Cursor("")
		for lines, _, _ := c.Next(now); len(lines) > 0; lines, _, _ = c.Next(now) {
			c.Wrote(now, len(lines))
			c.Ack(now, outlet.Peer{Acked: 1 << 60}) // all
		}
	}
}

// newTestQueue returns a queue of so many bytes.
func newTestQueue(p line.Protocol, limit int64) queue {
	if p == line.StatsD {
		return newStatsDQueue(limit)
	}
	q := newCarbonQueue()
	to := []CarbonForward{{Queue: conf.Bytes(limit), Replay: conf.Bytes(limit / 4)}}
	if err := q.open(store.Places{}, to, slog.New(slog.DiscardHandler)); err != nil {
		panic(err)
	}
	q.store.Cursor("").Begin(time.Now(), outlet.Session{Upstream: "upstream", Certain: true})
	return q
}

// A path is one of the ways through ingest and queue.
type path struct {
	name    string
	proto   line.Protocol
	data    []byte
	stream  bool
	counted bool
}

func paths() []path {
	statsd := strings.TrimSuffix(numbered("host.api.requests.get.%d:1|c", 100, 128), "\n")
	mixed := numbered("host.api.requests.%d:1|c|#env:prod,az:eu-west-1b,path:checkout\nhost.api.took:12.5|ms|@0.1\nhost.jobs:-1|g\nhost.users:8412c1ff|s", 100, 132)
	carbon := numbered("host.cpu.user.core%d 3.4 1700000000", 0, 1700)
	return []path{
		{name: "statsd-datagram", proto: line.StatsD, data: []byte(statsd)},
		{name: "statsd-counted", proto: line.StatsD, data: []byte(statsd), counted: true},
		{name: "statsd-mixed", proto: line.StatsD, data: []byte(mixed)},
		{name: "statsd-mixed-counted", proto: line.StatsD, data: []byte(mixed), counted: true},
		{name: "carbon-block", proto: line.Carbon, data: []byte(carbon[:56<<10]), stream: true},
	}
}

// run takes one read from the socket's buffer to the upstream's hands.
func (p path) run(in *ingest, n *naming, q queue) {
	in.begin(time.Now(), n.current(q))
	if p.stream {
		in.stream(p.data)
	} else {
		in.datagram(p.data)
	}
	q.accept(&in.tally, in.end()...)
	handOver(q)
}

func (p path) parts() (*ingest, *naming, queue) {
	if p.counted {
		cfg := testConfig(Upstream{Address: Address{Network: "carbon"}}, Upstream{Address: Address{Network: "stdout"}})
		cfg.Rewrite.Unmatched = line.DropUnmatched
		proxy, err := New(cfg, holding("Denali"), Options{})
		if err != nil {
			panic(err)
		}
		proxy.carbon = newTestQueue(line.Carbon, 1<<20).(*carbonQueue)
		q := newPointQueue(proxy)
		if err := q.open(cfg, nil); err != nil {
			panic(err)
		}
		return newIngest(p.proto, q, &badLines{}), proxy.naming, q
	}
	n := newNaming(holding("Denali"), line.Rules{From: "host", To: "{name}", Names: []string{"Denali", "MtLogan"}})
	return newIngest(p.proto, nil, &badLines{}), n, newTestQueue(p.proto, 64<<20)
}

func BenchmarkIngest(b *testing.B) {
	for _, p := range paths() {
		b.Run(p.name, func(b *testing.B) {
			in, n, q := p.parts()
			b.SetBytes(int64(len(p.data)))
			b.ReportAllocs()
			for b.Loop() {
				p.run(in, n, q)
			}
			lines := strings.Count(string(p.data), "\n") + 1
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*lines), "ns/line")
		})
	}
}

// The usual path allocates nothing.
func TestIngestAllocatesNothing(t *testing.T) {
	if raceDetector {
		t.Skip("the race detector makes sync.Pool forget")
	}
	defer debug.SetGCPercent(debug.SetGCPercent(-1)) // so does a collection
	for _, p := range paths() {
		in, n, q := p.parts()
		for range 100 { // until all that is used again is there
			p.run(in, n, q)
		}
		if got := testing.AllocsPerRun(200, func() { p.run(in, n, q) }); got >= 1 {
			t.Errorf("%s: %v allocations a read, want 0", p.name, got)
		}
	}
}

// BenchmarkForward sends lines through real sockets and reports what was lost.
func BenchmarkForward(b *testing.B) {
	for _, proto := range []string{"statsd", "carbon"} {
		b.Run(proto, func(b *testing.B) {
			sink := newSink(b, "tcp")
			p := start(b, testConfig(sink.address, sink.address), holding("Denali"))
			conn := p.dial(b, proto, map[string]int{"statsd": 1, "carbon": 0}[proto])
			format := map[string]string{"statsd": "host.n%d:1|c", "carbon": "host.n%d 1 1700000000"}[proto]
			text := numbered(format, 0, 1000)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				write(b, conn, text)
				sink.next(1000)
			}
			books := p.Status().Lines[proto]
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*1000), "ns/line")
			b.ReportMetric(float64(books.Received-books.Forwarded-books.Queued), "lost")
		})
	}
}
