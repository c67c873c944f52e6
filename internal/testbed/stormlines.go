//go:build linux

package testbed

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// What a proxy is sent, and at which intervals. A StatsD line says who sent it
// and when, in its path and its value; a Carbon line says who in its value, and
// its path is the same for all, so that two hosts under one name would write one
// point:
//
//	host.s.<proxy>.<number>:<unix ms>|g
//	host.load.<metric> <proxy> <unix s>
//
// Every other proxy counts StatsD itself, and says who it is in a gauge, which becomes a
// point of each slot:
//
//	host.load.counted:<proxy>|g
const (
	statsdPitch = 40 * time.Millisecond
	carbonPitch = 200 * time.Millisecond
	oldEvery    = 4                // every so many-th Carbon line is old,
	oldAtMost   = 10 * time.Second // by so much, but not older than the application
)

// A statsdArrival is one line at the receiver of StatsD. The receiver has one
// socket: the order of arrivals is that in which the lines left, of all proxies
// together.
type statsdArrival struct {
	name          string
	proxy         int
	sent, arrived time.Time // by the application, at the receiver
}

// A point is what Graphite would store one value for.
type point struct {
	name, path string
	second     int64
}

// A twice is a point that two hosts have written.
type twice struct {
	point
	one, other int // proxies
}

// A stormReceiver is a StatsD by UDP and a Graphite by TCP, which keep what a
// judge needs.
type stormReceiver struct {
	statsd, carbon *server

	mu       sync.Mutex
	arrivals []statsdArrival
	writers  map[point]int // proxies
	twices   []twice
	points   int // Carbon lines
	strange  []string
}

// newStormReceiver starts a receiver. It ends with the test.
func newStormReceiver(t testing.TB) *stormReceiver {
	t.Helper()
	r := &stormReceiver{writers: map[point]int{}}
	r.statsd = startServer(t, receiverSpec{Network: "udp", Buffer: 8 << 20}, manner{}, eachLine(r.takeStatsD))
	r.carbon = startServer(t, receiverSpec{}, manner{DropTail: true}, eachLine(r.takeCarbon))
	return r
}

// eachLine is a lineTaker that is called for each line.
type eachLine func(line string)

func (take eachLine) take(_ int, lines []byte) {
	for line := range bytes.Lines(lines) {
		take(string(bytes.TrimSuffix(line, []byte{'\n'})))
	}
}

func (r *stormReceiver) takeStatsD(line string) {
	now := time.Now()
	path, rest, _ := strings.Cut(line, ":")
	value, kind, _ := strings.Cut(rest, "|")
	node := strings.Split(path, ".")
	ms, err := strconv.ParseInt(value, 10, 64)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || kind != "g" || len(node) != 4 || node[1] != "s" {
		r.strange = append(r.strange, line)
		return
	}
	proxy, err := strconv.Atoi(node[2])
	if err != nil {
		r.strange = append(r.strange, line)
		return
	}
	r.arrivals = append(r.arrivals, statsdArrival{name: node[0], proxy: proxy, sent: time.UnixMilli(ms), arrived: now})
}

func (r *stormReceiver) takeCarbon(line string) {
	var p point
	var proxy int
	var path string
	_, err := fmt.Sscanf(line, "%s %d %d", &path, &proxy, &p.second)
	p.name, p.path, _ = strings.Cut(path, ".")
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil || !strings.HasPrefix(p.path, "load.") {
		r.strange = append(r.strange, line)
		return
	}
	r.points++
	switch first, ok := r.writers[p]; {
	case !ok:
		r.writers[p] = proxy
	case first != proxy:
		r.twices = append(r.twices, twice{p, first, proxy})
	}
}

// took returns what has come of Carbon so far, and all lines that nobody sent. More may
// come: a slot is flushed when it is over.
func (r *stormReceiver) took() (carbon, points int, strange []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.points, len(r.writers), slices.Clone(r.strange)
}

// A stormLoad is what applications send to one proxy.
type stormLoad struct {
	proxy          int
	statsd, carbon string // addresses: host:port, path
	counted        bool   // StatsD, by the proxy

	mu                     sync.Mutex
	statsdSent, carbonSent int // lines, that the kernel took
}

// sendStatsD sends until ctx ends. A line that nobody takes is gone.
func (l *stormLoad) sendStatsD(ctx context.Context) {
	conn, err := net.Dial("udp", l.statsd)
	if err != nil {
		return
	}
	defer conn.Close()
	for n := 0; ctx.Err() == nil; n++ {
		line := fmt.Sprintf("host.s.%d.%d:%d|g", l.proxy, n, time.Now().UnixMilli())
		if l.counted {
			line = fmt.Sprintf("host.load.counted:%d|g", l.proxy)
		}
		if _, err := conn.Write([]byte(line)); err == nil && !l.counted {
			l.count(&l.statsdSent)
		}
		retry.Sleep(ctx, statsdPitch)
	}
}

// sendCarbon sends until ctx ends, and connects again when it must.
func (l *stormLoad) sendCarbon(ctx context.Context) {
	var conn net.Conn
	began := time.Now()
	for n := 0; ctx.Err() == nil; n++ {
		at := time.Now()
		if n%oldEvery == 0 {
			at = later(began, at.Add(-time.Duration(n/oldEvery)*time.Second%oldAtMost))
		}
		var err error
		if conn == nil {
			conn, err = net.Dial("unix", l.carbon)
		}
		if err == nil {
			_, err = fmt.Fprintf(conn, "host.load.%d %d %d\n", n%2, l.proxy, at.Unix())
		}
		if err == nil {
			l.count(&l.carbonSent)
		} else if conn != nil {
			conn.Close()
			conn = nil
		}
		retry.Sleep(ctx, carbonPitch)
	}
	if conn != nil {
		conn.Close()
	}
}

func (l *stormLoad) count(n *int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	*n++
}
