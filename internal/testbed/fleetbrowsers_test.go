//go:build linux

package testbed

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/prefixproxy/prefixproxy/internal/admin"
	fleetpool "github.com/prefixproxy/prefixproxy/internal/fleet"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/proxy"
)

var (
	browsedHosts = flag.Int("browsers.hosts", 5, "how many hosts TestFleetBrowsers has")
	browsedFor   = flag.Duration("browsers.for", 0, "how long it looks, and how long it does not before; 0: each browser looks twice")
)

// browsersEach look at each host, each every pageEvery: what the page asks for.
const (
	browsersEach = 50
	pageEvery    = 10 * time.Second
)

// However many browsers look at the pages of however many hosts: each host asks etcd once
// in 10 s, and no renewal is late. It says what etcd was asked:
//
//	go test ./internal/testbed -run TestFleetBrowsers -v -browsers.hosts 100 -browsers.for 1m
func TestFleetBrowsers(t *testing.T) {
	t.Parallel()
	hosts := *browsedHosts
	server := newEtcdIn(t, sidebyside.MemoryDir(t))
	server.Start(t)
	f := startFleet(t, hosts, 15*time.Second, func() etcd.Config {
		return etcd.Config{Endpoints: []string{server.Endpoint}}
	})
	f.whole()
	pages := make([]looked, hosts)
	for i, h := range f.holders {
		pages[i] = servePages(t, h, f.clients[i], hosts)
	}

	least := func(of func()) time.Duration { // that any claim had left
		var lowest time.Duration
		done := make(chan struct{})
		go func() { defer close(done); of() }()
		for lowest = time.Hour; ; {
			for _, h := range f.holders {
				if claim, ok := h.Current(); ok {
					lowest = min(lowest, claim.Left())
				} else {
					lowest = 0
				}
			}
			select {
			case <-done:
				return lowest
			case <-time.After(50 * time.Millisecond):
			}
		}
	}
	reads, begun := etcdReads(t, server.Endpoint), time.Now()
	if *browsedFor > 0 {
		left := least(func() { <-time.After(*browsedFor) })
		now := etcdReads(t, server.Endpoint)
		t.Logf("nobody looks: %.1f reads a second; the least that a claim had left was %v", float64(now-reads)/time.Since(begun).Seconds(), left.Round(time.Millisecond))
		// The first view of a host is more than one read.
		for _, h := range pages {
			h.pool.View(t.Context())
		}
		reads, begun = etcdReads(t, server.Endpoint), time.Now()
	}
	var looks, refused atomic.Int64
	left := least(func() { browse(t, pages, &looks, &refused) })
	took, now := time.Since(begun), etcdReads(t, server.Endpoint)
	t.Logf("%d browsers: %d looks, and %d refused, in %v: %.1f reads a second; the least that a claim had left was %v",
		hosts*browsersEach, looks.Load(), refused.Load(), took.Round(time.Millisecond), float64(now-reads)/took.Seconds(), left.Round(time.Millisecond))

	renewals := hosts * 2 * (int(took/(2500*time.Millisecond)) + 2)
	views := hosts * (int(took/pageEvery) + 3) // the first one is two
	if now-reads > renewals+views {
		t.Errorf("%d reads, want at most %d for renewals and %d for pages", now-reads, renewals, views)
	}
	if left <= 0 || f.losses() > 0 {
		t.Errorf("a renewal was late: the least that was left was %v, and %d names were lost", left, f.losses())
	}
}

// A looked is where browsers look: its pages, and what they wait for.
type looked struct {
	url  string
	pool *fleetpool.Pool
}

// noLines is a proxy that does nothing.
type noLines struct{}

func (noLines) Status() proxy.Status      { return proxy.Status{} }
func (noLines) BadLines() []proxy.BadLine { return nil }

// servePages serves the pages of a host.
func servePages(t *testing.T, h *membership.Holder, client *etcd.Client, names int) looked {
	t.Helper()
	list := membership.PrefixedNumerics("web-", names)
	known := fleetpool.New(list, fleetpool.MaxOthers, func(ctx context.Context, asks []pool.AskPast) (pool.Glance, error) {
		return pool.LookAt(ctx, client, "default", asks...)
	})
	src := admin.Source{Names: h, Lines: noLines{}, Gatherer: prometheus.NewRegistry(), Pool: known}
	pages := admin.New(admin.Config{Listen: "127.0.0.1:0"}, src, slog.New(slog.DiscardHandler))
	if err := pages.Bind(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { known.Run(ctx) })
	running.Go(func() { pages.Run(ctx) })
	t.Cleanup(running.Wait)
	t.Cleanup(stop)
	return looked{"http://" + pages.Addr().String(), known}
}

// browse lets browsersEach look at each host: for as long as the test is told to, or until
// each has seen the pool twice. Two of them get the pages. The others wait for what these
// show, which is the same to etcd: so many pages are the work of a hundred machines.
func browse(t *testing.T, hosts []looked, looks, refused *atomic.Int64) {
	until := time.Now().Add(*browsedFor)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var browsers sync.WaitGroup
	for _, h := range hosts {
		for i := range browsersEach {
			browsers.Go(func() {
				next := time.NewTimer(pageEvery * time.Duration(i) / browsersEach)
				for seen := 0; t.Context().Err() == nil; {
					if *browsedFor > 0 {
						<-next.C
						next.Reset(pageEvery)
					}
					if err := h.look(t.Context(), client, i); err == nil {
						seen++
						looks.Add(1)
					} else { // what is too much at a time is
						refused.Add(1)
					}
					if *browsedFor == 0 && seen == 2 || *browsedFor > 0 && time.Now().After(until) {
						return
					}
				}
			})
		}
	}
	browsers.Wait()
}

func (h looked) look(ctx context.Context, client *http.Client, i int) error {
	if i > 1 {
		if v := h.pool.View(ctx); v == nil || v.Err != nil || v.Held == 0 {
			return fmt.Errorf("got %+v", v)
		}
		return nil
	}
	resp, err := client.Get(h.url + []string{"/names.json", "/fleet"}[i])
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s, %v", resp.Status, err)
	}
	return nil
}
