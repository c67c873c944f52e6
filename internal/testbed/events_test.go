package testbed

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const eventsConfig = `
etcd: {endpoints: ["${ETCD}"]}
listen: {statsd: [], carbon: [tcp://127.0.0.1:0]}
forward: {carbon: {to: ["tcp://${CARBON}"]}}
graphite: {events: "${EVENTS}"}
`

// A claim and a release are events in a real graphite-web, and in what it draws; and one
// that hangs keeps nobody from stopping.
func TestEvents(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	graphite := startGraphiteWeb(t, carbon)
	begun := time.Now().Unix()
	start := func() *daemon {
		d := startDaemon(t, eventsConfig, "ETCD="+embeddedEtcd(t), "CARBON="+carbon.Addr, "EVENTS="+graphite.URL+"/events/")
		d.AwaitName(t, "Denali")
		return d
	}
	d := start()
	owner := d.AwaitUp(t).Owner
	events := func() (what []string) {
		var all []struct{ What string }
		if err := json.Unmarshal(graphite.get(t, "/events/get_data?tags=prefixproxy%20default%20Denali&set=intersection"), &all); err != nil {
			t.Fatal(err)
		}
		for _, e := range all {
			what = append(what, e.What)
		}
		slices.Sort(what)
		return what
	}
	claimed, released := "Denali is "+owner, "Denali is "+owner+" no more: release"
	awaitEvents := func(want ...string) {
		t.Helper()
		eventually(t, "events", func() error {
			if got := events(); !slices.Equal(got, want) {
				return fmt.Errorf("got %q, want %q", got, want)
			}
			return nil
		})
	}
	awaitEvents(claimed)
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
	awaitEvents(claimed, released)
	drawn := graphite.Render(t, `drawAsInfinite(events("prefixproxy","Denali"))`, begun-1, time.Now().Unix()+2)
	sum := 0.0
	for _, s := range drawn {
		for _, p := range s.Points {
			if p.Value != nil {
				sum += *p.Value
			}
		}
	}
	if len(drawn) != 1 || sum != 2 {
		t.Errorf("got %d series with %v events, want 2 events in one", len(drawn), sum)
	}

	d = start()
	awaitEvents(claimed, claimed, released)
	graphite.Signal(syscall.SIGSTOP)
	defer graphite.Signal(syscall.SIGCONT)
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d while Graphite hangs", code)
	}
	if log := d.Stderr.Text(); !strings.Contains(log, "name released") {
		t.Errorf("the name was not released while Graphite hangs:\n%s", log)
	}
}

// A carbon that is stopped takes connections and no lines: it is not up, for whoever asks,
// and up again when it goes on; its connection stays.
func TestStoppedCarbon(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	d := startDaemon(t, eventsConfig, "ETCD="+embeddedEtcd(t), "CARBON="+carbon.Addr, "EVENTS=")
	d.AwaitReady(t)
	carbon.Signal(syscall.SIGSTOP)
	defer carbon.Signal(syscall.SIGCONT)
	now := time.Now().Unix()
	for i := range 12 { // more than its kernel takes
		var lines strings.Builder
		for n := range 10_000 {
			fmt.Fprintf(&lines, "host.stopped.x%d.%s %d %d\n", n%10, strings.Repeat("y", 100), i, now)
		}
		send(t, "tcp", d.Address(t, "carbon", "tcp://127.0.0.1:"), lines.String())
	}
	up := func(want bool) func() error {
		return func() error {
			status, err := d.Status()
			if err == nil && status.Upstreams[len(status.Upstreams)-1].Up != want {
				err = fmt.Errorf("%+v", status.Upstreams)
			}
			return err
		}
	}
	d.eventually(t, "it is down", up(false))
	if code, text, err := d.Get("/readyz"); err != nil || code != 503 {
		t.Errorf("readyz: %d %q, %v", code, text, err)
	}
	_, page, err := d.Get("/")
	for _, want := range []string{"no carbon upstream is up", "it takes nothing", "not well", "lines/s in"} {
		if err != nil || !strings.Contains(page, want) {
			t.Errorf("the page lacks %q: %v\n%s", want, err, page)
		}
	}
	carbon.Signal(syscall.SIGCONT)
	d.eventually(t, "it is up", up(true))
	d.Stderr.Await(t, "takes lines again")
	if log := d.Stderr.Text(); strings.Count(log, "upstream takes nothing") != 1 || strings.Count(log, "takes lines again") != 1 || strings.Contains(log, "upstream down") {
		t.Errorf("want one warning, and its end:\n%s", log)
	}
}
