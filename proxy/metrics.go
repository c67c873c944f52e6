package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// The metrics of the data path. Lines are counted by protocol.
var (
	descReceived   = desc("lines_received_total", "Lines read whole.", "protocol")
	descAdopted    = desc("lines_adopted_total", "Lines found in queue or spool at the start.", "protocol", "destination")
	descRewritten  = desc("lines_rewritten_total", "Lines that got the name of this host.", "protocol")
	descResent     = desc("lines_resent_total", "Lines sent once more on a new connection.", "protocol", "destination")
	descForwarded  = desc("lines_forwarded_total", "Lines that an upstream was sent.", "protocol", "destination", "upstream")
	descDropped    = desc("lines_dropped_total", "Lines dropped, by reason.", "protocol", "destination", "reason")
	descQueueLines = desc("queue_lines", "Lines in memory, waiting for a name or for the upstream.", "protocol", "destination")
	descQueueBytes = desc("queue_bytes", "Bytes of lines in memory.", "protocol", "destination")
	descQueueLimit = desc("queue_limit_bytes", "How many bytes may wait in memory.", "protocol", "destination")
	descSpoolLines = desc("spool_lines", "Carbon lines on disk.", "destination")
	descSpoolBytes = desc("spool_bytes", "Bytes of Carbon lines on disk.", "destination")
	descSpoolLimit = desc("spool_limit_bytes", "How many bytes may wait on disk.", "destination")
	descSpoolAge   = desc("spool_oldest_seconds", "Age of the oldest Carbon line on disk.", "destination")
	descUpstreamUp = desc("upstream_up", "1 for the upstream in use, 0 for one that is not.", "protocol", "destination", "upstream")
	descKernel     = desc("kernel_drops_total", "Datagrams that the kernel dropped because the receive buffer was full.", "listener")

	descSeries   = desc("aggregate_series", "Series that StatsD has, where it becomes points here.")
	descSketched = desc("aggregate_sketched_total", "Timers that went on in a sketch, since their samples had no room: once a timer and slot.")

	descConnections = desc("connections", "Open connections.", "listener")
	descLimit       = desc("connections_limit", "How many connections may be open.")
	descEnded       = desc("connections_ended_total", "Connections that we ended: to make room for another (limit), or because they were idle for listen.idle_timeout (idle).", "reason")
	descDelayed     = desc("accepts_delayed_total", "Times that new connections waited in the backlog: for another to be idle (limit), or for a file descriptor (descriptors).", "reason")
)

var descs []*prometheus.Desc // all of them

func desc(name, help string, labels ...string) *prometheus.Desc {
	d := prometheus.NewDesc("prefixproxy_"+name, help, labels, nil)
	descs = append(descs, d)
	return d
}

// Describe implements prometheus.Collector.
func (p *Proxy) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range descs {
		ch <- d
	}
}

// Collect implements prometheus.Collector. All counts of a protocol are from one instant,
// so that they balance in every scrape.
func (p *Proxy) Collect(ch chan<- prometheus.Metric) {
	m := metrics{ch}
	statsd := p.statsd.account()
	m.collectReceived(line.StatsD, statsd.books)
	m.collectAccount(statsd)
	if s := statsd.series; s != nil {
		m.gauge(descSeries, float64(s.Series))
		m.counter(descSketched, s.Sketched)
	}
	total, carbon := p.carbon.accounts()
	m.collectReceived(line.Carbon, total)
	for _, a := range carbon {
		m.collectAccount(a)
		if !a.removed {
			m.collectSpool(a)
		}
	}
	for _, u := range p.upstreams() {
		up := 0.0
		if u.Up {
			up = 1
		}
		m.gauge(descUpstreamUp, up, u.Protocol, u.Destination, u.Address)
	}
	p.collectSockets(m)
}

// metrics take the values of metrics.
type metrics struct{ to chan<- prometheus.Metric }

func (m metrics) counter(d *prometheus.Desc, v uint64, labels ...string) {
	m.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
}

func (m metrics) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

// collectReceived collects what is counted once, however many destinations there are.
func (m metrics) collectReceived(proto line.Protocol, b books) {
	m.counter(descReceived, b.received, proto.String())
	m.counter(descRewritten, b.rewritten, proto.String())
}

// collectAccount collects the books of StatsD, or of a destination, and what they have of its queue.
func (m metrics) collectAccount(a account) {
	b := a.bound
	m.counter(descAdopted, a.adopted, b.Protocol, b.Destination)
	m.counter(descResent, a.resent, b.Protocol, b.Destination)
	for why := range reasons {
		m.counter(descDropped, a.dropped[why], b.Protocol, b.Destination, why.String())
	}
	for upstream, lines := range a.forwarded {
		m.counter(descForwarded, lines, b.Protocol, b.Destination, upstream)
	}
	m.gauge(descQueueLines, float64(a.queued), b.Protocol, b.Destination)
	if !a.removed {
		m.gauge(descQueueBytes, float64(b.Queue), b.Protocol, b.Destination)
		m.gauge(descQueueLimit, float64(b.QueueLimit), b.Protocol, b.Destination)
	}
}

// collectSpool collects what waits on disk for a destination.
func (m metrics) collectSpool(a account) {
	b, age := a.bound, 0.0
	if !b.Oldest.IsZero() {
		age = max(0, time.Since(b.Oldest).Seconds())
	}
	m.gauge(descSpoolLines, float64(a.spooled), b.Destination)
	m.gauge(descSpoolBytes, float64(b.Spool), b.Destination)
	m.gauge(descSpoolLimit, float64(b.SpoolLimit), b.Destination)
	m.gauge(descSpoolAge, age, b.Destination)
}

// collectSockets collects what the inlet has to say.
func (p *Proxy) collectSockets(m metrics) {
	for _, l := range p.inlet.Listeners() {
		if n, err := l.KernelDrops(); err == nil {
			m.counter(descKernel, n, l.Address.String())
		}
		if l.IsStream() {
			m.gauge(descConnections, float64(l.Connections()), l.Address.String())
		}
	}
	c := p.inlet.Connections()
	m.gauge(descLimit, float64(c.Limit))
	m.counter(descEnded, c.MadeRoom, "limit")
	m.counter(descEnded, c.IdleTimeout, "idle")
	m.counter(descDelayed, c.Waited, "limit")
	m.counter(descDelayed, c.ShortOf, "descriptors")
}
