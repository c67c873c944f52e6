//go:build linux

package testbed

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// adminConfig is a daemon with little memory beside its own 48 MiB.
const adminConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: []
  carbon: [tcp://127.0.0.1:0]
forward:
  carbon: {to: ["tcp://${CARBON}"], queue: 4MiB, replay: 1MiB}
`

// adminMemory is how much it may have resident.
const adminMemory = (48 + 4 + 1) << 20

// However many ask for the page, or open connections to it and say nothing: the name
// is held throughout, no line is lost, and memory stays within its bound.
func TestAdminLoad(t *testing.T) {
	const idle, asking = 8160, 3000
	raiseDescriptors(t, idle+asking+1000)
	sink := startSink(t)
	d := startDaemon(t, adminConfig, "ETCD="+embeddedEtcd(t), "CARBON="+sink.Addr)
	d.AwaitName(t, "Denali")
	page, carbon := d.Dir+"/admin.sock", d.Address(t, "carbon", carbonListener)

	var load sync.WaitGroup
	defer load.Wait()
	for range idle {
		var conn net.Conn
		d.eventually(t, "room in the page's backlog", func() (err error) {
			conn, err = net.Dial("unix", page)
			return err
		})
		defer conn.Close()
	}
	for range asking { // each one request, all at once
		load.Go(func() {
			conn, err := net.Dial("unix", page)
			if err != nil {
				return // the backlog is full
			}
			defer conn.Close()
			io.WriteString(conn, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
			io.Copy(io.Discard, conn)
		})
	}
	const clients, each = 30, 500
	for c := range clients {
		load.Go(func() {
			conn, err := net.Dial("tcp", carbon)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for i := range each {
				if _, err := fmt.Fprintf(conn, "host.c%d.x%d 1 1700000000\n", c, i); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	load.Wait()
	eventually(t, "all lines", func() error {
		if got := strings.Count(sink.Text(), "\nDenali.c") + strings.Count(sink.Text()[:min(9, len(sink.Text()))], "Denali.c"); got != clients*each {
			return fmt.Errorf("got %d, want %d", got, clients*each)
		}
		return nil
	})
	checkMemory(t, d, adminMemory)
	status := d.AwaitUp(t)
	checkBooks(t, status)
	if log := d.Stderr.Text(); status.State != "held" || strings.Contains(log, "suspended") || strings.Contains(log, "lost") {
		t.Errorf("state %s; the log:\n%s", status.State, log)
	}
}

// raiseDescriptors lets this process have so many, for a test.
func raiseDescriptors(t testing.TB, n uint64) {
	t.Helper()
	var before unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	if before.Cur >= n {
		return
	}
	raised := unix.Rlimit{Cur: n, Max: max(n, before.Max)}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &raised); err != nil {
		missing(t, fmt.Sprintf("%d descriptors can't be had: %v", n, err))
	}
	t.Cleanup(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &before) })
}
