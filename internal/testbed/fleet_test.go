package testbed

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership"
)

var fleetEach = flag.Int("fleet.tenures", 100, "TestFleetPage: how many tenures of each name are on record; 1000 are 100,000")

// carbonConfig is a daemon for Carbon only.
const carbonConfig = `
etcd: {endpoints: ["${ETCD}"]}
listen: {statsd: [], carbon: [tcp://127.0.0.1:0]}
forward: {carbon: {to: ["tcp://${CARBON}"]}}
`

// 90 days of a busy pool are on record: the page of a host shows the last of them.
func TestFleetPage(t *testing.T) {
	t.Parallel()
	etcd := newEtcdIn(t, sidebyside.MemoryDir(t))
	etcd.Start(t)
	fillPool(t, etcd.Endpoint, "default", membership.Mountains(), 90, *fleetEach)
	sink := startSink(t)
	d := startDaemon(t, carbonConfig, "ETCD="+etcd.Endpoint, "CARBON="+sink.Addr)
	d.AwaitReady(t)
	d.eventually(t, "all of the pool on the pages", func() error { // a busy machine may ask etcd more than once
		code, page, err := d.Get("/fleet")
		if err != nil || code != http.StatusOK {
			return fmt.Errorf("%d, %v\n%s", code, err, page)
		}
		for _, want := range []string{">7 of 100 free</h1>", "<strong>94 names held, 0 hosts waiting.</strong>", "held at once in the last 7 d", "<b>MtLogan</b>", "class=\"x\"", "<b>old-1</b>", "<b>old-2</b>", "<b>old-12</b>", " not in the list</s>"} {
			if !strings.Contains(page, want) {
				return fmt.Errorf("the page lacks %q:\n%.3000s", want, page)
			}
		}
		if len(page) > 300<<10 {
			t.Errorf("the page has %d bytes", len(page))
		}
		if _, text, err := d.Get("/metrics"); err != nil || !strings.Contains(text, "prefixproxy_pool_names{state=\"held\"} 94\n") {
			return fmt.Errorf("no pool_names in the metrics, or wrong: %v\n%s", err, text)
		}
		if code, text, err := d.Get("/names.json"); err != nil || code != 200 || strings.Count(text, ": ") != 94 {
			return fmt.Errorf("names.json: %d %v %s", code, err, text)
		}
		return nil
	})
	askOf(t, d.Dir, etcd.Endpoint)
}

// askOf asks the pool of fillPool what people ask.
func askOf(t *testing.T, dir, endpoint string) {
	t.Helper()
	for _, tt := range []struct {
		args        []string
		lines       int
		want, never string // in one of them
	}{
		{[]string{"members"}, 1 + 94 + 1, "94 held (1 not in the list), 7 free, 0 waiting in pool default", "  -  "},
		{[]string{"who", "Denali"}, 1 + 10, "Denali", "?"},
		{[]string{"who", "old-2"}, 1 + 10, "old-2", ""},
		{[]string{"who", "Denali", "--at", "-5d"}, 1 + 1, "app-", "note"},
		{[]string{"history", wanderer}, 1 + 100, "MtLogan", ""},
		{[]string{"target", wanderer, "host.x", "--from", "-7d"}, 1, "timeSlice(", "''"},
	} {
		eventually(t, fmt.Sprint(tt.args), func() error { // a busy machine needs longer than a person waits
			cmd := program(t, []string{"ETCD=" + endpoint, "CARBON=127.0.0.1:1", "DIR=" + dir}, append(tt.args, "--config", filepath.Join(dir, "config.yaml"))...)
			out, err := cmd.Output()
			if err != nil || strings.Count(string(out), "\n") != tt.lines || !strings.Contains(string(out), tt.want) || tt.never != "" && strings.Contains(string(out), tt.never) {
				return fmt.Errorf("%v, want %d lines with %q:\n%s", err, tt.lines, tt.want, out)
			}
			return nil
		})
	}
}

// etcdReads returns how many requests etcd has begun to answer that read.
func etcdReads(t *testing.T, endpoint string) (n int) {
	t.Helper()
	resp, err := http.Get(endpoint + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var count float64
		for _, method := range []string{"Range", "Txn", "LeaseTimeToLive"} {
			if strings.HasPrefix(line, "grpc_server_started_total{grpc_method=\""+method+"\"") {
				fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &count)
				n += int(count)
			}
		}
	}
	return n
}
