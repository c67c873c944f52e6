package testbed

import (
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/membership"
)

var (
	fleetEach = flag.Int("fleet.tenures", 100, "TestFleetPage: how many tenures of each name are on record; 1000 are 100,000")
	fleetHold = flag.String("fleet.serve", "", "TestFleetPage: a file that is written with the address of the page, which is served until that is removed")
)

const fleetConfig = `
etcd: {endpoints: ["${ETCD}"]}
listen: {statsd: [], carbon: [tcp://127.0.0.1:0]}
forward: {carbon: {to: ["tcp://${CARBON}"]}}
`

// 90 days of a busy pool are on record, and 50 browsers look at the page of each of some
// hosts: etcd is asked once in 10 s by each, and their names are held throughout.
func TestFleetPage(t *testing.T) {
	t.Parallel()
	etcd := newEtcdIn(t, inMemory(t))
	etcd.Start(t)
	FillPool(t, etcd.Endpoint, "default", membership.Mountains(), 90, *fleetEach)
	sink := StartSink(t)
	var hosts []*Daemon
	for range 3 {
		d := StartDaemon(t, fleetConfig, "ETCD="+etcd.Endpoint, "CARBON="+sink.Addr)
		d.AwaitReady(t)
		hosts = append(hosts, d)
	}
	code, page, err := hosts[0].Get("/fleet")
	if err != nil || code != http.StatusOK {
		t.Fatalf("%d, %v\n%s", code, err, page)
	}
	for _, want := range []string{"<strong>95 names held, 5 of 100 free, 0 hosts waiting.</strong>", "held at once in the last 7 d", "<b>MtLogan</b>", "class=\"x\""} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q:\n%.3000s", want, page)
		}
	}
	if len(page) > 300<<10 {
		t.Errorf("the page has %d bytes", len(page))
	}

	// All look at once, again and again.
	before := etcdReads(t, etcd.Endpoint)
	begun := time.Now()
	var looks atomic.Int64
	var browsers sync.WaitGroup
	for _, d := range hosts {
		for range 50 {
			browsers.Go(func() {
				for seen := 0; seen < 5 && t.Context().Err() == nil; { // what is too much at a time is refused
					if _, page, err := d.Get("/fleet"); err == nil && strings.Contains(page, "<b>Denali</b>") {
						seen++
						looks.Add(1)
					}
				}
			})
		}
	}
	browsers.Wait()
	took := time.Since(begun)
	reads := etcdReads(t, etcd.Endpoint) - before
	// A renewal is three reads or so, and a keep-alive.
	renewals := 3 * len(hosts) * (int(took/(2500*time.Millisecond)) + 2)
	views := len(hosts) * (int(took/(10*time.Second)) + 1 + 3) // the first view of a host takes some more
	t.Logf("%d looks at %d hosts in %v: %d reads", looks.Load(), len(hosts), took.Round(time.Millisecond), reads)
	if reads > renewals+views {
		t.Errorf("%d looks cost %d reads, want at most %d", looks.Load(), reads, renewals+views)
	}
	for _, d := range hosts {
		if log := d.Stderr.Text(); strings.Contains(log, "suspended") || strings.Contains(log, "lost") || strings.Contains(log, "unreachable") {
			t.Errorf("a renewal was late:\n%s", log)
		}
		if _, text, err := d.Get("/metrics"); err != nil || !strings.Contains(text, "prefixproxy_pool_names{state=\"held\"} 95\n") {
			t.Errorf("no pool_names in the metrics, or wrong: %v\n%s", err, text)
		}
		if code, text, err := d.Get("/names.json"); err != nil || code != 200 || strings.Count(text, ": ") != 95 {
			t.Errorf("names.json: %d %v %s", code, err, text)
		}
	}
	serve(t, hosts[0])
}

// inMemory returns a directory for the test in memory, where there is some: an etcd is to
// be filled, and a disk takes its time.
func inMemory(t *testing.T) string {
	dir, err := os.MkdirTemp("/dev/shm", "prefixproxy-test-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
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

// serve lets a person look at the page of d.
func serve(t *testing.T, d *Daemon) {
	if *fleetHold == "" {
		return
	}
	os.WriteFile(*fleetHold, []byte(filepath.Join(d.Dir, "admin.sock")), 0o600)
	for range time.Tick(time.Second) {
		if _, err := os.Stat(*fleetHold); err != nil {
			return
		}
	}
}
