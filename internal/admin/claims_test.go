package admin

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// claim_held is 1, and claim_info is present, exactly while the state is held.
func TestClaimMetrics(t *testing.T) {
	const counters = `prefixproxy_claim_losses_total{reason="data_loss"} 0
prefixproxy_claim_losses_total{reason="deleted"} 2
prefixproxy_claim_losses_total{reason="expired"} 0
prefixproxy_claim_losses_total{reason="lost"} 0
prefixproxy_claim_losses_total{reason="overwritten"} 0
prefixproxy_claim_ttl_seconds 15
prefixproxy_claims_total 3
`
	const none = "prefixproxy_claim_held 0\nprefixproxy_claim_horizon_seconds 0\n" + counters
	for _, tt := range []struct {
		what  string
		names fakeNames
		want  string
	}{
		{"held", holding(), "prefixproxy_claim_held 1\nprefixproxy_claim_horizon_seconds 3600\n" +
			`prefixproxy_claim_info{name="Denali",owner="foo-ns31",pool="default"} 1` + "\n" + counters},
		{"suspended", suspended(), none},
		{"waiting", waiting(), none},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if got := scrape(t, Collector{tt.names, fakePool{}, 15 * time.Second}); got != tt.want {
				t.Errorf("got\n%s\nwant\n%s", got, tt.want)
			}
		})
	}
}

// scrape returns what c gathers, with a sample on each line, in whole numbers.
func scrape(t *testing.T, c prometheus.Collector) string {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(c)
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, l := range m.GetLabel() {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			text.WriteString(family.GetName())
			if len(labels) > 0 {
				fmt.Fprintf(&text, "{%s}", strings.Join(labels, ","))
			}
			fmt.Fprintf(&text, " %.0f\n", m.GetGauge().GetValue()+m.GetCounter().GetValue())
		}
	}
	return text.String()
}
