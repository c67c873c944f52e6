package link

import (
	"io"
	"net"
	"testing"
	"time"
)

// A peer whose kernel has had no room for a while is known to have been full, when it has taken all,
// too.
func TestFull(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	l, err := newStream(conn.(streamConn), false)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()

	lines, written := make([]byte, 4000), 0
	look := func(want string, is func(Peer) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); ; {
			got, err := l.Look()
			if err != nil || time.Now().After(deadline) {
				t.Fatalf("%+v, %v, want %s", got, err, want)
			}
			if is(got) {
				return
			}
		}
	}
	isTaken := func(p Peer) bool { return p.Acked == uint64(written) }
	if written, err = l.Write(lines, time.Second); err != nil {
		t.Fatal(err)
	}
	look("that it was not full", func(p Peer) bool { return isTaken(p) && p.Full == 0 })
	for n := 1; n > 0; written += n {
		if n, err = l.Write(lines, time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
	look("that it is full", func(p Peer) bool { return p.Full >= time.Second })
	go io.Copy(io.Discard, peer)
	look("that it was", func(p Peer) bool { return isTaken(p) && p.Full >= time.Second })
}
