package proxy

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// What a datagram had that was longer than is read is in the books.
func TestTruncatedDatagram(t *testing.T) {
	statsd := newSink(t, "tcp")
	cfg := testConfig(statsd.address, Upstream{Address: Address{Network: "stdout"}})
	cfg.Listen.StatsD = []Address{{Network: "unixgram", Path: socketPath(t, "s")}}
	p := start(t, cfg, holding("Denali"))
	conn := p.dial(t, "statsd", 0).(*net.UnixConn)
	const ln = "host.n%08d:1|c"
	send := func(lines uint64) {
		t.Helper()
		text := numbered(ln, 0, int(lines))
		raw, err := conn.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 4*len(text)) })
		if err != nil {
			t.Skip(err)
		}
		write(t, conn, text)
	}
	const whole, long uint64 = 100 << 10 / 19, 50_000 // of 1 MB
	send(whole)
	statsd.next(int(whole))
	send(long)
	eventually(t, "all lines are in the books", func() bool { return balance(t, p.Proxy)["statsd"].Received == whole+long })
	b := balance(t, p.Proxy)["statsd"]
	if cut := b.Dropped["truncated"]; cut < long/3 || cut+b.Forwarded+b.Queued != whole+long {
		t.Errorf("got %+v", b)
	}
	if bad := p.BadLines(); len(bad) != 1 || bad[0].Reason != "truncated" {
		t.Errorf("bad lines: %v", bad)
	}
}
