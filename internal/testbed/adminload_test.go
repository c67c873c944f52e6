package testbed

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

// However many ask for the page, or open connections to it and say nothing: the name
// is held throughout, and no line is lost.
func TestAdminLoad(t *testing.T) {
	sink := StartSink(t)
	d := StartDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+sink.Addr)
	d.AwaitName(t, "Denali")
	page, carbon := d.Dir+"/admin.sock", d.Address(t, "carbon", carbonListener)

	var load sync.WaitGroup
	defer load.Wait()
	for range 2000 { // idle
		conn, err := net.Dial("unix", page)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	for range 3000 { // each one request, all at once
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
	Eventually(t, "all lines", func() error {
		if got := strings.Count(sink.Text(), "\nDenali.c") + strings.Count(sink.Text()[:min(9, len(sink.Text()))], "Denali.c"); got != clients*each {
			return fmt.Errorf("got %d, want %d", got, clients*each)
		}
		return nil
	})
	status := d.AwaitReady(t)
	CheckBooks(t, status)
	if log := d.Stderr.Text(); status.State != "held" || strings.Contains(log, "suspended") || strings.Contains(log, "lost") {
		t.Errorf("state %s; the log:\n%s", status.State, log)
	}
}
