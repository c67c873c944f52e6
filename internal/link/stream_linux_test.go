package link

import (
	"io"
	"testing"
	"time"
)

// A peer whose kernel has had no room for a while is known to have been full, when it has taken all,
// too.
func TestFull(t *testing.T) {
	l, peer := connect(t, "tcp", "127.0.0.1:0", false)

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
	write := func(limit time.Duration) (n int) {
		t.Helper()
		n, err := l.Write(lines, limit)
		if err != nil {
			t.Fatal(err)
		}
		written += n
		return n
	}
	write(time.Second)
	look("that it was not full", func(p Peer) bool { return isTaken(p) && p.Full == 0 })
	for write(time.Millisecond) > 0 {
	}
	look("that it is full", func(p Peer) bool { return p.Full >= time.Second })
	go io.Copy(io.Discard, peer)
	look("that it was", func(p Peer) bool { return isTaken(p) && p.Full >= time.Second })
}
