package testbed

import (
	"net"
	"testing"
	"time"
)

// awaitListening waits until somebody accepts connections at addr, or p, which
// should, has ended.
func awaitListening(t testing.TB, p *process, addr string) {
	t.Helper()
	eventually(t, "listening on "+addr, func() error {
		if p.hasEnded() {
			t.Fatalf("%v ended", p.cmd.Args)
		}
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			conn.Close()
		}
		return err
	})
}
