package link

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// connect returns a stream to a peer, which listens at an address.
func connect(t *testing.T, network, at string, resets bool) (l *stream, peer net.Conn) {
	t.Helper()
	listener, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial(network, listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if peer, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { peer.Close() })
	if l, err = newStream(conn.(streamConn), resets); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, peer
}

// What a program at the other end of a unix socket has read counts as acknowledged while it
// reads on, and never more than that.
func TestUnixAcknowledges(t *testing.T) {
	l, peer := connect(t, "unix", filepath.Join(t.TempDir(), "s"), true)
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
