package admin

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/fleet"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// fakePool is a pool as a test wants it.
type fakePool struct{ view *fleet.View }

func (f fakePool) View(context.Context) *fleet.View   { return f.view }
func (f fakePool) Counts(context.Context) *fleet.View { return f.view }
func (f fakePool) Known() *fleet.View                 { return f.view }

// poolOf returns a view of a number of names, each with a number of tenures in the last day.
func poolOf(names, each int, owner string) *fleet.View {
	now := time.Now()
	v := &fleet.View{At: now, Names: names, Held: names, Begun: now.Add(-fleet.Kept), MostHeld: names}
	for i, name := range membership.PrefixedNumerics("web-", names) {
		row := fleet.Row{Name: name, Listed: true, Held: true, Lease: 1, Owner: owner, Since: now.Add(-time.Hour)}
		span := (24 * time.Hour / time.Duration(each)).Milliseconds()
		for n := range each {
			from := now.Add(-24*time.Hour).UnixMilli() + int64(n)*span + int64(i)
			bar := fleet.Bar{Owner: owner, From: from, To: from + span*9/10, Ended: []string{"release", "expired"}[n%2]}
			if n == each-1 {
				bar.To, bar.Ended, bar.Lasts = 0, "", true
			}
			row.Bars = append(row.Bars, bar)
		}
		v.Rows = append(v.Rows, row)
	}
	return v
}

func askPool(t testing.TB, view *fleet.View, path string) *httptest.ResponseRecorder {
	t.Helper()
	return askPoolOf(t, holding(), view, path)
}

func askPoolOf(t testing.TB, names Names, view *fleet.View, path string) *httptest.ResponseRecorder {
	t.Helper()
	src := newSource(names, bothUp())
	src.Pool = fakePool{view}
	w := httptest.NewRecorder()
	New(DefaultConfig(), src, slog.New(slog.DiscardHandler)).http.Handler.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost:8127"+path, nil))
	return w
}

// A thousand names fit in 300 KB, however busy they are.
func TestFleetSize(t *testing.T) {
	const owner = "app-0f3a2.prod.example.net"
	for _, each := range []int{1, 2, 11, 40} {
		for _, last := range []string{"", "?last=1h", "?last=7d", "?last=%3Cscript%3E"} {
			w := askPool(t, poolOf(1000, each, owner), "/fleet"+last)
			if w.Code != http.StatusOK || w.Body.Len() > 300_000 || strings.Count(w.Body.String(), "<b>web-") != 1000 {
				t.Errorf("%d tenures a name, %q: %d, %d bytes", each, last, w.Code, w.Body.Len())
			}
		}
	}
}

// Of many unclean ends, a few are shown.
func TestFleetUncleanEnds(t *testing.T) {
	page := askPool(t, poolOf(10, 11, "web17"), "/fleet").Body.String()
	if got := strings.Count(page, " of web17, expired</li>"); got != manyUnclean || !strings.Contains(page, "<li>and 44 more</li>") {
		t.Errorf("%d unclean ends are shown, want %d and 44 more", got, manyUnclean)
	}
}

// If less than the week is known, the picture says so.
func TestFleetBeforeWhatIsKnown(t *testing.T) {
	view := poolOf(2, 1, "web17")
	view.Begun = view.At.Add(-84 * time.Hour)
	for last, want := range map[string]bool{"7d": true, "24h": false} {
		page := askPool(t, view, "/fleet?last="+last).Body.String()
		if got := strings.Count(page, `<path class="u" d="M0 0h`) == 3; got != want { // one is the legend's
			t.Errorf("%s: unknown before what is known: got %v, want %v", last, got, want)
		}
	}
}

func BenchmarkFleet(b *testing.B) {
	view := poolOf(1000, 11, "app-0f3a2.prod.example.net")
	for b.Loop() {
		askPool(b, view, "/fleet")
	}
}

// Whatever somebody has written to etcd is mere text on the page, and in the JSON.
func TestFleetHostile(t *testing.T) {
	for _, owner := range []string{
		`<script>alert(1)</script>`, `"><img src=x onerror=alert(1)>`, `'-alert(1)-'`, `</title></svg><b>`, `{{.}}`, `]]>`, `a&lt;b`, `\u003cb>`, strings.Repeat("<", 255), "",
	} {
		view := poolOf(3, 2, owner)
		view.Waiting = []pool.Waiter{{Owner: owner, Since: time.Now()}}
		view.Err = errors.New(owner)
		body := askPool(t, view, "/fleet").Body.String()
		if strings.Contains(body, "<script") || strings.Contains(body, "<img") || strings.Contains(body, "<b><") || strings.Contains(body, "style=") {
			t.Errorf("%q: markup in\n%s", owner, body)
		}
		if err := wellFormed(body); err != nil {
			t.Errorf("%q: %v in\n%s", owner, err, body)
		}
		view.Err = nil
		w := askPool(t, view, "/names.json")
		var names map[string]string
		if err := json.Unmarshal(w.Body.Bytes(), &names); err != nil || len(names) != 3 || names["web-2"] != owner {
			t.Errorf("%q: names.json: %v %s", owner, err, w.Body)
		}
	}
}

// wellFormed returns what is wrong with the elements of the page.
func wellFormed(page string) error {
	d := xml.NewDecoder(strings.NewReader(page))
	d.Strict, d.AutoClose, d.Entity = false, []string{"meta", "link", "br"}, xml.HTMLEntity
	depth := 0
	for {
		token, err := d.Token()
		switch token.(type) {
		case xml.StartElement:
			depth++
		case xml.EndElement:
			depth--
		}
		if err == io.EOF && depth == 0 {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w at depth %d", err, depth)
		}
	}
}

// Tenures overlap if clocks differ, and some have no record of their beginning: no label covers
// another, no gap is filled, and no age is made up.
func TestFleetOverlaps(t *testing.T) {
	view := poolOf(1, 1, "late")
	ago := func(hours int) int64 { return time.Now().Add(-time.Duration(hours) * time.Hour).UnixMilli() }
	view.Rows[0].Bars = []fleet.Bar{
		{Owner: "a", From: ago(20), To: ago(8), Ended: "release"}, {Owner: "b", From: ago(14), To: ago(5), Ended: "release"}, {Owner: "c", From: ago(16), To: ago(4), Ended: "release"},
		{Owner: "d", From: ago(23), To: ago(22), Ended: "release"},
	}
	view.Rows = append(view.Rows, fleet.Row{Name: "MtLogan", Listed: true, Held: true, Owner: "by hand", Bars: []fleet.Bar{{Owner: "by hand", Lasts: true}}})
	view.MostHeld = 7
	body := askPool(t, view, "/fleet").Body.String()
	var drawn []string
	for _, m := range regexp.MustCompile(`<svg(?: class="u")? x="([0-9]+)[0-9.]*%" width="([0-9]+)[0-9.]*%"><title>(\w)`).FindAllStringSubmatch(body, -1) {
		drawn = append(drawn, strings.Join(m[1:], " "))
	}
	if got, want := strings.Join(drawn, ", "), "41 37 b, 33 8 c, 16 16 a, 4 4 d, 0 100 b"; got != want { // the last one is by hand
		t.Errorf("labels: got %q, want %q\n%s", got, want, body)
	}
	for _, want := range []string{`<b>MtLogan</b><i>by hand</i><s>no lease</s>`, `<path d="M333 0h1329M83 0h79"/>`, `<path class="u" d="M0 0h2000"/>`, "At most 7 were held at once in the last 7 d (the list has 1)."} {
		if !strings.Contains(body, want) {
			t.Errorf("want %q in\n%s", want, body)
		}
	}
}

// This host's own name is marked, and its state is as the host itself knows it.
func TestOwnRow(t *testing.T) {
	view := poolOf(2, 1, "web17")
	view.Rows[1].Name = "Denali"
	src := newSource(suspended(), bothUp())
	src.Pool = fakePool{view}
	w := httptest.NewRecorder()
	New(DefaultConfig(), src, slog.New(slog.DiscardHandler)).http.Handler.ServeHTTP(w, httptest.NewRequest("GET", "http://localhost:8127/fleet", nil))
	body := w.Body.String()
	if strings.Count(body, ` own">`) != 1 || !strings.Contains(body, `own"><b>Denali</b><i>web17</i><s>suspended 60 min</s>`) || !strings.Contains(body, "<s>held 60 min</s>") {
		t.Errorf("got %s", body)
	}
}

// Before etcd has answered, and when it no longer does, the pages say so.
func TestFleetWithoutEtcd(t *testing.T) {
	for _, tt := range []struct {
		what string
		view *fleet.View
		page string
		code int // of names.json
	}{
		{"nothing is known", nil, "Nothing is known yet", 503},
		{"it never answered", &fleet.View{Err: errors.New("no route")}, "no route", 503},
		{"it did just now", &fleet.View{At: time.Now(), Err: errors.New("no route")}, "What follows is 1 s old", 200},
		{"it did, and is asked", &fleet.View{At: time.Now().Add(-15 * time.Second)}, "What follows is 15 s old", 200},
		{"it did an hour ago", &fleet.View{At: time.Now().Add(-time.Hour), Err: errors.New("no route")}, "What follows is 60 min old", 503},
	} {
		if w := askPool(t, tt.view, "/fleet"); w.Code != 200 || !strings.Contains(w.Body.String(), tt.page) {
			t.Errorf("%s: %d\n%s\nwant %q", tt.what, w.Code, w.Body, tt.page)
		}
		if w := askPool(t, tt.view, "/names.json"); w.Code != tt.code {
			t.Errorf("%s: names.json %d, want %d", tt.what, w.Code, tt.code)
		}
	}
}

// The first look at a pool says why there is nothing to see, if that is known.
func TestFleetOfAnOutage(t *testing.T) {
	if page := askPoolOf(t, failingNames{holding()}, nil, "/fleet").Body.String(); !strings.Contains(page, "etcd at https://etcd2:2379: its certificate has expired") {
		t.Errorf("got\n%s\nwant the cause", page)
	}
}

// What is free, who waits and what ended without a release is above the picture, the last first, and
// no more than can be read.
func TestFleetSays(t *testing.T) {
	view := poolOf(100, 4, "web17")
	for i := range 60 {
		view.Rows[i].Held, view.Rows[i].Owner = false, ""
		view.Waiting = append(view.Waiting, pool.Waiter{Owner: "late", Since: time.Now().Add(-time.Minute)})
	}
	view.Held, view.MostHeld, view.Free = 40, 70, 60
	last := &view.Rows[3].Bars[3]
	last.Lasts = false // and nobody knows when it ended
	ended := time.Now().Add(-time.Second)
	view.Rows[2].Bars[1].To = ended.UnixMilli()
	body := askPool(t, view, "/fleet").Body.String()
	for _, want := range []string{
		`<h1 class="held">60 of 100 free</h1>`, "<li>web-1</li>", "<li>web-30</li>", "<li>and 30 more</li>", "<li>late, for 60 s</li>", "<li>and 10 more</li>",
		`Ended without a release in the last day: 101</h2>
<ul class="lines"><li>unknown: web-4 of web17</li><li>` + moment(ended, time.Now()) + ": web-3 of web17, expired</li>",
		"<li>and 95 more</li>", "<b>web-1</b><i>free</i><s></s>", "<b>web-61</b><i>web17</i><s>held 60 min</s>",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("want %q in\n%.3000s", want, body)
		}
	}
	view.Err = errors.New("no route")
	if body := askPool(t, view, "/fleet").Body.String(); !strings.Contains(body, "<s>was held 60 min</s>") {
		t.Errorf("etcd is away, and all is held still:\n%.3000s", body)
	}
}

// The list is called short when a tenth of it or less was free.
func TestShortList(t *testing.T) {
	for _, tt := range []struct {
		names, held, most int
		want              string
	}{
		{100, 50, 89, ""}, {100, 50, 91, "The list is getting short"}, {100, 100, 100, "Every name is taken"},
	} {
		view := &fleet.View{At: time.Now(), Names: tt.names, Held: tt.held, Free: tt.names - tt.held, Begun: time.Now().Add(-fleet.Kept), MostHeld: tt.most}
		body := askPool(t, view, "/fleet").Body.String()
		if tt.want == "" && strings.Contains(body, `class="issue`) || !strings.Contains(body, tt.want) {
			t.Errorf("%d of %d held: want %q in\n%s", tt.held, tt.names, tt.want, body)
		}
	}
}

func TestPoolMetric(t *testing.T) {
	view := &fleet.View{At: time.Now(), Held: 3, Free: 97, Waiting: make([]pool.Waiter, 2)}
	gathered := func(v *fleet.View) string {
		reg := prometheus.NewRegistry()
		reg.MustRegister(Collector{holding(), fakePool{v}, 15 * time.Second})
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() != "prefixproxy_pool_names" {
					continue
				}
				all = append(all, fmt.Sprintf("%s{%s} %v", f.GetName(), m.GetLabel()[0].GetValue(), m.GetGauge().GetValue()))
			}
		}
		return strings.Join(all, "\n")
	}
	const want = "prefixproxy_pool_names{free} 97\nprefixproxy_pool_names{held} 3\nprefixproxy_pool_names{waiting} 2"
	if got := gathered(view); got != want {
		t.Errorf("got %s\nwant %s", got, want)
	}
	view.At = time.Now().Add(-time.Hour) // etcd is away: nobody knows
	for _, v := range []*fleet.View{nil, view} {
		if got := gathered(v); got != "" {
			t.Errorf("got %s, want nothing", got)
		}
	}
}

// failingNames is a holder with an etcd that does not answer.
type failingNames struct{ fakeNames }

func (failingNames) Outage() (membership.Outage, bool) {
	return membership.Outage{
		Since:   time.Now().Add(-3 * time.Minute),
		Trouble: &etcd.Trouble{Endpoint: "https://etcd2:2379", What: "its certificate has expired", Hint: "openssl <x>"},
	}, true
}

// The page says first what is wrong, since when, what it means and what to do.
func TestWrong(t *testing.T) {
	full := bothUp()
	full.Bounds = []proxy.Bound{{Protocol: "carbon", Destination: "dr", Queue: 1, QueueLimit: 64 << 20, Spool: 900 << 20, SpoolLimit: 1 << 30, Oldest: time.Now().Add(-time.Hour)}}
	counted := statsdOnly()
	counted.Upstreams[0] = proxy.UpstreamStatus{Protocol: "statsd", Address: "carbon:", Since: noon, Reason: "connection refused"}
	counted.Bounds = []proxy.Bound{{Protocol: "statsd", Queue: 60 << 20, QueueLimit: 64 << 20}}
	secret := bothUp()
	secret.Upstreams = []proxy.UpstreamStatus{{Protocol: "carbon", Address: "tls://a.example.net:2003", Since: noon, Reason: "certificate has expired"}}
	for _, tt := range []struct {
		what  string
		names Names
		lines Lines
		want  []string
	}{
		{"a certificate of Graphite's", holding(), secret, []string{"certificate has expired", "openssl s_client -connect a.example.net:2003"}},
		{"StatsD is counted, and Carbon is away", holding(), counted, []string{"no carbon upstream is up", "none is lost before both are full", "the memory of StatsD&#39;s series is 94 % full"}},
		{"StatsD is counted, and the name suspended", suspended(), counted, []string{"and the points of StatsD, wait"}},
		{"suspended", failingNames{suspended()}, bothUp(), []string{"not well", "the name may not be used", "etcd at https://etcd2:2379: its certificate has expired", "openssl &lt;x&gt;"}},
		{"held, and etcd is away", failingNames{holding()}, bothUp(), []string{"well, but see below", "the name can&#39;t be renewed <small>since", "3 min", "the name is good for another 3600 s"}},
		{"waiting", waiting(), bothUp(), []string{"not well", "every name is taken", "longer list"}},
		{"spool nearly full", holding(), full, []string{"the spool of carbon dr is 88 % full <small>since", "60 min", "900 MiB of 1.0 GiB", "1 B of 64 MiB"}},
	} {
		page := ask(t, tt.names, tt.lines, "GET", "/").Body.String()
		for _, want := range tt.want {
			if !strings.Contains(page, want) {
				t.Errorf("%s: want %q in\n%s", tt.what, want, page)
			}
		}
		if tt.lines.(fakeLines).Upstreams[0].Address == "carbon:" && strings.Contains(page, "10 s") {
			t.Errorf("%s: nothing that is counted is dropped after 10 s:\n%s", tt.what, page)
		}
		if err := wellFormed(page); err != nil {
			t.Errorf("%s: %v", tt.what, err)
		}
	}
}

// steadyLines is a proxy with given numbers of received and dropped lines.
type steadyLines struct {
	fakeLines
	received, dropped *uint64
}

func (s steadyLines) Status() proxy.Status {
	status := s.fakeLines.Status()
	status.Lines = map[string]proxy.Books{"carbon": {Received: *s.received, Forwarded: *s.received - *s.dropped, Dropped: map[string]uint64{"bad_value": *s.dropped}}}
	return status
}

// Rates are those of the last minute, however long it goes on.
func TestRates(t *testing.T) {
	var received, dropped uint64
	lines := steadyLines{bothUp(), &received, &dropped}
	r := &rates{src: Source{Names: holding(), Lines: lines}}
	now := noon
	for i := range 1000 {
		r.sample(now)
		now = now.Add(sampleEvery)
		received += 100
		if i >= 990 {
			received += 900
			dropped += 5
		}
	}
	of := func() rate {
		is := sample{now, lines.Status()}
		return rateOf("carbon", r.first(is), is)
	}
	rate := of()
	if rate.Received != 100 || rate.Dropped != 0.5 || rate.DroppedBy["bad_value"] != 30 || rate.Over != time.Minute {
		t.Errorf("got %+v, want 100 lines/s, 30 of them dropped in a minute", rate)
	}
	received = 10 // by another destination
	if rate := of(); rate.Received != 0 {
		t.Errorf("fewer lines than before: got %v lines/s", rate.Received)
	}
}
