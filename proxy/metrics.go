package proxy

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// The metrics of the data path. Lines are counted by protocol.
var (
	descReceived   = desc("lines_received_total", "Lines read whole.", "protocol")
	descAdopted    = desc("lines_adopted_total", "Lines found in queue or spool at the start.", "protocol")
	descRewritten  = desc("lines_rewritten_total", "Lines that got the name of this host.", "protocol")
	descResent     = desc("lines_resent_total", "Lines sent once more on a new connection.", "protocol")
	descForwarded  = desc("lines_forwarded_total", "Lines that an upstream was sent.", "protocol", "upstream")
	descDropped    = desc("lines_dropped_total", "Lines dropped, by reason.", "protocol", "reason")
	descQueueLines = desc("queue_lines", "Lines in memory, waiting for a name or for the upstream.", "protocol")
	descQueueBytes = desc("queue_bytes", "Bytes of lines in memory.", "protocol")
	descSpoolLines = desc("spool_lines", "Carbon lines on disk.")
	descSpoolBytes = desc("spool_bytes", "Bytes of Carbon lines on disk.")
	descSpoolAge   = desc("spool_oldest_seconds", "Age of the oldest Carbon line on disk.")
	descUpstreamUp = desc("upstream_up", "1 for the upstream in use, 0 for one that is not.", "protocol", "upstream")
	descKernel     = desc("kernel_drops_total", "Datagrams that the kernel dropped because the receive buffer was full.", "listener")

	descConnections = desc("connections", "Open connections.", "listener")
	descLimit       = desc("connections_limit", "How many connections may be open.")
	descEnded       = desc("connections_ended_total", "Connections that we ended: to make room for another (limit), or because they were idle for listen.idle_timeout (idle).", "reason")
	descDelayed     = desc("accepts_delayed_total", "Times that new connections waited in the backlog: for another to be idle (limit), or for a file descriptor (descriptors).", "reason")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("prefixproxy_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector.
func (p *Proxy) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descReceived, descAdopted, descRewritten, descResent, descForwarded, descDropped,
		descQueueLines, descQueueBytes, descSpoolLines, descSpoolBytes, descSpoolAge, descUpstreamUp, descKernel,
		descConnections, descLimit, descEnded, descDelayed,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. The lines of one protocol are of
// one instant, so that their books balance in every scrape.
func (p *Proxy) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, proto := range protocols {
		b, bytes := p.queue(proto).snapshot()
		name := proto.String()
		counter(descReceived, b.received, name)
		counter(descAdopted, b.adopted, name)
		counter(descRewritten, b.rewritten, name)
		counter(descResent, b.resent, name)
		for why := range reasons {
			counter(descDropped, b.dropped[why], name, why.String())
		}
		if proto == line.Carbon {
			gauge(descSpoolLines, float64(b.spooled))
		}
		gauge(descQueueLines, float64(b.queued), name)
		gauge(descQueueBytes, float64(bytes), name)
		for _, f := range b.forwarded {
			counter(descForwarded, f.lines, name, f.upstream)
		}
		for _, s := range p.outlets[proto].Status() {
			up := 0.0
			if s.Up {
				up = 1
			}
			gauge(descUpstreamUp, up, name, s.Address.String())
		}
	}
	p.collectSpool(gauge)
	p.collectSockets(counter, gauge)
}

// collectSockets collects what the inlet has to say.
func (p *Proxy) collectSockets(counter func(d *prometheus.Desc, v uint64, labels ...string), gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	in := p.inlet.Load()
	if in == nil {
		return
	}
	for _, l := range in.Listeners() {
		if n, err := l.KernelDrops(); err == nil {
			counter(descKernel, n, l.Address.String())
		}
		if l.IsStream() {
			gauge(descConnections, float64(l.Connections()), l.Address.String())
		}
	}
	c := in.Connections()
	gauge(descLimit, float64(c.Limit))
	counter(descEnded, c.MadeRoom, "limit")
	counter(descEnded, c.IdleTimeout, "idle")
	counter(descDelayed, c.Waited, "limit")
	counter(descDelayed, c.ShortOf, "descriptors")
}

// collectSpool collects what the disk holds.
func (p *Proxy) collectSpool(gauge func(d *prometheus.Desc, v float64, labels ...string)) {
	var bytes, age float64
	if s := p.keeper.stats(); s.Bytes > 0 {
		bytes = float64(s.Bytes)
		age = max(0, time.Since(s.Oldest).Seconds())
	}
	gauge(descSpoolBytes, bytes)
	gauge(descSpoolAge, age)
}
