package proxy

import (
	"context"
	"strings"
	"time"

	"github.com/cactus/go-statsd-client/v5/statsd"
	dto "github.com/prometheus/client_model/go"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// telemetryInterval is how often our own numbers are sent.
const telemetryInterval = 10 * time.Second

// sendTelemetry sends our own numbers through our own path, below the node from,
// until ctx ends. last is what the counters were when they were sent last.
func (p *Proxy) sendTelemetry(ctx context.Context, from string, last map[string]float64) {
	sink := &ownLines{ingest: newIngest(line.StatsD, p.bad)}
	client, err := statsd.NewClientWithSender(sink, from+".prefixproxy", statsd.SuffixOctothorpe)
	if err != nil {
		p.log.Error("own telemetry is off", "err", err)
		return
	}
	defer client.Close()
	tick := time.NewTicker(telemetryInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		families, err := p.options.Telemetry.Gather()
		if err != nil {
			p.log.Warn("own numbers are not complete", "err", err)
		}
		q := p.queue(line.StatsD)
		sink.ingest.begin(time.Now(), p.naming.current(q))
		for _, f := range families {
			sendFamily(client, f, last)
		}
		q.accept(&sink.ingest.tally, sink.ingest.end()...)
	}
}

// ownLines is a statsd.Sender that hands lines to our own ingest.
type ownLines struct{ ingest *ingest }

func (o *ownLines) Send(data []byte) (int, error) {
	o.ingest.datagram(data)
	return len(data), nil
}

func (o *ownLines) Close() error { return nil }

// sendFamily sends the metrics of one name: gauges as they are, counters as
// what has come since the last time. What is information and no number stays
// out: with its labels as nodes it would leave a dead series for every owner,
// which is what names are recycled to prevent.
func sendFamily(client statsd.StatSender, f *dto.MetricFamily, last map[string]float64) {
	name, ours := strings.CutPrefix(f.GetName(), "prefixproxy_")
	if !ours || strings.HasSuffix(name, "_info") {
		return
	}
	for _, m := range f.GetMetric() {
		path := nodes(strings.TrimSuffix(name, "_total"), m.GetLabel())
		switch {
		case m.Counter != nil:
			total := m.Counter.GetValue()
			if delta := int64(total - last[path]); delta != 0 {
				client.Inc(path, delta, 1)
			}
			last[path] = total
		case m.Gauge != nil:
			client.Gauge(path, int64(m.Gauge.GetValue()), 1)
		}
	}
}

// nodes makes a metric path of a name and the values of its labels.
func nodes(name string, labels []*dto.LabelPair) string {
	var b strings.Builder
	b.WriteString(name)
	for _, l := range labels {
		if l.GetValue() == "" {
			continue // a destination without a name
		}
		b.WriteByte('.')
		b.WriteString(strings.Map(pathRune, l.GetValue()))
	}
	return b.String()
}

// pathRune keeps what is safe within a node of a metric path.
func pathRune(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
		return r
	}
	return '_'
}
