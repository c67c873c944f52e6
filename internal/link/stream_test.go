package link

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// What a program at the other end of a unix socket has read counts as acknowledged while it
// reads on, and never more than that.
func TestUnixAcknowledges(t *testing.T) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	l, err := newStream(conn.(streamConn), true)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	lines, read, last := make([]byte, 4000), uint64(0), uint64(0)
	for range 10 {
		if n, err := l.Write(lines, time.Second); n != len(lines) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
	}
	for read < 39_000 {
		n, err := io.ReadFull(peer, make([]byte, 1000))
		if err != nil {
			t.Fatal(err)
		}
		read += uint64(n)
		got, err := l.Look()
		if err != nil || got.Acked > read {
			t.Fatalf("%d bytes acknowledged of %d that were read, %v", got.Acked, read, err)
		}
		last = got.Acked
	}
	if last < 20_000 {
		t.Errorf("%d bytes acknowledged of %d that were read", last, read)
	}
}
