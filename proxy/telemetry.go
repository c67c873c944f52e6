package proxy

import (
	"context"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cactus/go-statsd-client/v5/statsd"
	dto "github.com/prometheus/client_model/go"

	"github.com/prefixproxy/prefixproxy/internal/inlet"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// telemetryInterval is how often our own numbers are sent.
const telemetryInterval = 10 * time.Second

// A telemetry sends our own numbers through our own path. run's goroutine owns it, but for from.
type telemetry struct {
	proxy  *Proxy
	from   atomic.Pointer[string] // below this node; nil: nothing is sent
	sent   map[string]float64     // what was sent last of each counter
	gauges map[string]bool        // those that were sent last
}

func newTelemetry(p *Proxy) *telemetry { return &telemetry{proxy: p, sent: map[string]float64{}} }

// follow makes a configuration hold from now on.
func (t *telemetry) follow(cfg Config) {
	if t.proxy.options.Telemetry == nil || !cfg.Telemetry || len(cfg.Forward.StatsD.To) == 0 {
		t.from.Store(nil)
	} else {
		t.from.Store(&cfg.Rewrite.From)
	}
}

// run sends until ctx ends.
func (t *telemetry) run(ctx context.Context) {
	names := t.proxy.naming.names
	tick := time.NewTimer(retry.ToBeat(telemetryInterval))
	defer t.sendLast()
	for {
		changed := names.Changed()
		claim, ok := names.Current()
		var parting <-chan struct{}
		if ok {
			parting = claim.Parting()
		}
		select {
		case <-changed:
		case <-parting:
			t.sendLast()
			select {
			case <-claim.Done():
			case <-ctx.Done():
				return
			}
		case <-tick.C:
			tick.Reset(retry.ToBeat(telemetryInterval))
			t.send((*dto.Gauge).GetValue)
		case <-ctx.Done():
			return
		}
	}
}

// sendLast sends our own numbers for the last time under this name: a statsd repeats a
// gauge for ever, so each says 0 now.
func (t *telemetry) sendLast() {
	if _, ok := t.proxy.naming.names.Current(); ok {
		t.send(func(*dto.Gauge) float64 { return 0 })
	}
}

// send sends all our numbers once, the gauges as value has them.
func (t *telemetry) send(value func(*dto.Gauge) float64) {
	p, from := t.proxy, t.from.Load()
	if from == nil {
		return
	}
	sink := &ownLines{p.newHandler(line.StatsD, func() string { return "" })}
	client, err := statsd.NewClientWithSender(sink, *from+".prefixproxy", statsd.SuffixOctothorpe)
	if err != nil {
		p.log.Error("own telemetry is off", "err", err)
		return
	}
	defer client.Close()
	families, err := p.options.Telemetry.Gather()
	if err != nil {
		p.log.Warn("own numbers are not complete", "err", err)
	}
	sink.Begin(time.Now())
	before := t.gauges
	t.gauges = map[string]bool{}
	for _, f := range families {
		t.sendFamily(client, f, value)
	}
	for path := range before {
		if !t.gauges[path] { // a reload has removed what it was about, and a statsd repeats it
			client.Gauge(path, 0, 1)
		}
	}
	sink.End()
}

// ownLines is a statsd.Sender that hands lines to a handler, as a socket does.
type ownLines struct{ inlet.Handler }

func (o *ownLines) Send(data []byte) (int, error) {
	o.Datagram(data, 0)
	return len(data), nil
}

func (o *ownLines) Close() error { return nil }

// sendFamily sends the metrics of one name: gauges as they are, counters as
// what has come since the last time. What is information and no number stays
// out: with its labels as nodes it would leave a dead series for every owner,
// which is what names are recycled to prevent.
func (t *telemetry) sendFamily(client statsd.StatSender, f *dto.MetricFamily, value func(*dto.Gauge) float64) {
	name, ours := strings.CutPrefix(f.GetName(), "prefixproxy_")
	if !ours || strings.HasSuffix(name, "_info") {
		return
	}
	for _, m := range f.GetMetric() {
		path := nodes(strings.TrimSuffix(name, "_total"), m.GetLabel())
		switch {
		case m.Counter != nil:
			total := m.Counter.GetValue()
			if total < t.sent[path] { // it has begun anew: of a listener that a reload opened again
				t.sent[path] = 0
			}
			if delta := int64(total - t.sent[path]); delta > 0 {
				client.Inc(path, delta, 1)
			}
			t.sent[path] = total
		case m.Gauge != nil:
			t.gauges[path] = true
			client.Gauge(path, int64(value(m.Gauge)), 1)
		}
	}
}

// nodes makes a metric path of a name and the values of its labels; a destination may have none.
func nodes(name string, labels []*dto.LabelPair) string {
	for _, l := range labels {
		if value := l.GetValue(); value != "" {
			name += "." + notInNode.ReplaceAllString(value, "_")
		}
	}
	return name
}

// notInNode matches what may not be safe within a node of a metric path.
var notInNode = regexp.MustCompile(`[^A-Za-z0-9_-]`)
