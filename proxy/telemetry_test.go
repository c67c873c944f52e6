package proxy

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/store"
)

var update = flag.Bool("update", false, "write the golden files")

// scrape returns the metrics of p.
func scrape(t *testing.T, p *Proxy) []*dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(p)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// The names of the metrics are a contract.
func TestMetricNames(t *testing.T) {
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, Upstream{Address: Address{Network: "stdout"}})
	p := start(t, cfg, holding("Denali"))
	var b strings.Builder
	for _, f := range scrape(t, p.Proxy) {
		labels := []string{}
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, l.GetName())
		}
		b.WriteString(f.GetName() + "{" + strings.Join(labels, ",") + "} " + strings.ToLower(f.GetType().String()) + "\n")
	}
	const golden = "testdata/metrics.txt"
	if *update {
		if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}
}

// Each upstream that the status shows is in the scrape, whoever counts StatsD.
func TestUpstreamsInScrape(t *testing.T) {
	stdout := Upstream{Address: Address{Network: "stdout"}}
	for _, statsd := range []Upstream{stdout, {Address: Address{Network: "carbon"}}} {
		cfg := testConfig(statsd, stdout)
		cfg.Rewrite.Unmatched = line.PrefixUnmatched
		p := start(t, cfg, holding("Denali"))
		var got, want []string
		for _, f := range scrape(t, p.Proxy) {
			for _, m := range f.GetMetric() {
				if f.GetName() == "prefixproxy_upstream_up" {
					got = append(got, m.GetLabel()[1].GetValue()+" "+m.GetLabel()[2].GetValue())
				}
			}
		}
		for _, u := range p.Status().Upstreams {
			want = append(want, u.Protocol+" "+u.Address)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The dashboard for Graphite asks for all series of the metrics that it shows, also where destinations
// have names.
func TestGraphiteDashboard(t *testing.T) {
	text, err := os.ReadFile("../deploy/grafana/graphite.json")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string][]string{} // patterns, by metric
	for _, m := range regexp.MustCompile(`\.prefixproxy\.(([a-z_]+)[.*]*)`).FindAllStringSubmatch(string(text), -1) {
		shown[m[2]] = append(shown[m[2]], strings.TrimSuffix(m[1], "."))
	}
	stdout := Upstream{Address: Address{Network: "stdout"}}
	single, several := testConfig(stdout, stdout), testConfig(stdout, stdout)
	main, dr := several.Forward.Carbon[0], several.Forward.Carbon[0]
	main.Name, dr.Name, dr.To = "main", "dr", []Upstream{{Address: Address{Network: "tcp", Host: "127.0.0.1", Port: 1}}}
	several.Forward.Carbon = []CarbonForward{main, dr}
	for _, cfg := range []Config{single, several} {
		p := start(t, cfg, holding("Denali"))
		for _, f := range scrape(t, p.Proxy) {
			name := strings.TrimSuffix(strings.TrimPrefix(f.GetName(), "prefixproxy_"), "_total")
			for _, m := range f.GetMetric() {
				series := nodes(name, m.GetLabel())
				isShown := slices.ContainsFunc(shown[name], func(pattern string) bool {
					matches, _ := filepath.Match(strings.ReplaceAll(pattern, ".", "/"), strings.ReplaceAll(series, ".", "/"))
					return matches
				})
				if shown[name] != nil && !isShown {
					t.Errorf("the dashboard asks for %q, not for %s", shown[name], series)
				}
			}
		}
	}
}

// Our own numbers go through our own path, as deltas, and count as received.
func TestTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sending, registry := ownNumbers(t)
		p := sending.proxy
		info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "prefixproxy_claim_info", ConstLabels: prometheus.Labels{"owner": "foo-ns31"}})
		registry.MustRegister(p, info)
		defer tell(t, sending)()

		carbon := p.carbon
		if err := carbon.open(store.Places{}, p.cfg.Forward.Carbon, p.log); err != nil {
			t.Fatal(err)
		}
		accept(carbon, aBatch(time.Now(), nil, false, "a 1 1", "b 1 1"))
		first := telemetryLines(t, p)
		for _, want := range []string{"Denali.prefixproxy.lines_received.carbon:2|c", "Denali.prefixproxy.queue_lines.carbon:2|g", "Denali.prefixproxy.upstream_up.statsd.stdout_:0|g"} {
			if !slices.Contains(first, want) {
				t.Errorf("no %s in %q", want, first)
			}
		}
		if text := strings.Join(first, " "); strings.Contains(text, "foo_ns31") || strings.Contains(text, "foo-ns31") {
			t.Errorf("an owner became a series: %q", first)
		}
		accept(carbon, aBatch(time.Now(), nil, false, "c 1 1"))
		before := time.Now()
		second := telemetryLines(t, p)
		if took := time.Since(before); took != 10*time.Second {
			t.Errorf("the next came after %v, want 10s", took)
		}
		if !slices.Contains(second, "Denali.prefixproxy.lines_received.carbon:1|c") {
			t.Errorf("no delta in %q", second)
		}
		b := p.statsd.account()
		if b.received == 0 || b.rewritten != b.received {
			t.Errorf("own lines: %d received, %d rewritten", b.received, b.rewritten)
		}
	})
}

// The counter of a listener that a reload closed begins anew when another one opens it again.
func TestTelemetryOfANewCounter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sending, registry := ownNumbers(t)
		p := sending.proxy
		drops := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prefixproxy_drops_total"}, []string{"listener"})
		registry.MustRegister(drops)
		defer tell(t, sending)()
		for _, n := range []float64{5, 2} {
			drops.Reset()
			drops.WithLabelValues("udp").Add(n)
			if got, want := telemetryLines(t, p), fmt.Sprintf("Denali.prefixproxy.drops.udp:%v|c", n); got[0] != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
	})
}

// A gauge that is gone, of an upstream that a reload has removed, says 0 for the last time: a
// statsd would repeat what it was for ever.
func TestTelemetryOfAGoneGauge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sending, registry := ownNumbers(t)
		p := sending.proxy
		up := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "prefixproxy_up"}, []string{"upstream"})
		registry.MustRegister(up)
		defer tell(t, sending)()
		up.WithLabelValues("a").Set(1)
		up.WithLabelValues("b").Set(1)
		for _, want := range [][]string{
			{"Denali.prefixproxy.up.a:1|g", "Denali.prefixproxy.up.b:1|g"},
			{"Denali.prefixproxy.up.b:1|g", "Denali.prefixproxy.up.a:0|g"},
			{"Denali.prefixproxy.up.b:1|g"},
		} {
			if got := telemetryLines(t, p); !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
			up.DeleteLabelValues("a")
		}
	})
}

// ownNumbers returns what sends the numbers of a registry, which are none of the proxy's yet.
func ownNumbers(t *testing.T) (*telemetry, *prometheus.Registry) {
	t.Helper()
	registry := prometheus.NewRegistry()
	stdout := Upstream{Address: Address{Network: "stdout"}}
	p, err := New(testConfig(stdout, stdout), holding("Denali"), Options{Telemetry: registry})
	if err != nil {
		t.Fatal(err)
	}
	return newTelemetry(p), registry
}

// tell begins to send our own numbers. end stops that, and waits for what is sent last.
func tell(t *testing.T, sending *telemetry) (end func()) {
	ctx, cancel := context.WithCancel(t.Context())
	var telling sync.WaitGroup
	sending.follow(sending.proxy.cfg)
	telling.Go(func() { sending.run(ctx) })
	return func() {
		cancel()
		telling.Wait()
	}
}

// telemetryLines returns what the next interval sends.
func telemetryLines(t *testing.T, p *Proxy) []string {
	var b *batch
	for b == nil {
		<-p.statsd.(*statsdForwarder).more
		b, _ = p.statsd.(*statsdForwarder).tryTake()
	}
	return strings.Split(strings.TrimSuffix(string(b.buf), "\n"), "\n")
}

// At the end every gauge says 0, since a statsd would repeat it for ever; but not after a
// reload.
func TestLastTelemetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sending, registry := ownNumbers(t)
		p := sending.proxy
		held := prometheus.NewGauge(prometheus.GaugeOpts{Name: "prefixproxy_claim_held"})
		held.Set(1)
		registry.MustRegister(held)
		end := tell(t, sending)
		sending.follow(p.cfg) // as a reload does
		synctest.Wait()
		if b, _ := p.statsd.(*statsdForwarder).tryTake(); b != nil {
			t.Errorf("a reload sent %q", b.buf)
		}
		end()
		b, _ := p.statsd.(*statsdForwarder).tryTake()
		if b == nil || string(b.buf) != "Denali.prefixproxy.claim_held:0|g\n" {
			t.Errorf("the end sent %v, want claim_held:0", b)
		}
	})
}
