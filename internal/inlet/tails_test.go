package inlet

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
)

// Unfinished input of many connections is bounded. The largest goes, what is small
// stays, and each is a line or is dropped in the end.
func TestTailsAreBounded(t *testing.T) {
	in := start(t, defaults, localTCP)
	small := in.dial(t, 0)
	write(t, small, "small")
	const hogs, size = 300, 17_000
	var conns []net.Conn
	for i := range hogs {
		conn := in.dial(t, 0)
		write(t, conn, fmt.Sprintf("hog.%03d.", i)+strings.Repeat("x", size))
		conns = append(conns, conn)
	}
	eventually(t, "all is read", func() bool {
		in.connections.mu.Lock()
		defer in.connections.mu.Unlock()
		n := 0
		for s := range in.connections.running {
			if len(s.tail.data) > 0 {
				n++
			}
		}
		if in.connections.kept > maxKept {
			t.Fatalf("%d bytes are kept", in.connections.kept)
		}
		return n == hogs+1
	})
	for _, c := range conns {
		write(t, c, "\nnext\n")
	}
	write(t, small, ".line\n")
	in.came(t, "small.line")
	eventually(t, "each has an end", func() bool { return in.count("next") == hogs })
	whole, gone := in.count("hog."), strings.Count(in.Dropped(TooLong), "hog.")
	if whole+gone != hogs || gone < hogs/10 || len(in.Dropped(TooLong)) > hogs*shown {
		t.Errorf("%d are whole and %d dropped, of %d", whole, gone, hogs)
	}
	for _, ln := range in.Lines() {
		if strings.HasPrefix(ln, "hog.") && len(ln) != len("hog.000.")+size {
			t.Fatalf("a part of a line came: %.20q", ln)
		}
	}
	eventually(t, "nothing is kept", func() bool {
		in.connections.mu.Lock()
		defer in.connections.mu.Unlock()
		return in.connections.kept == 0
	})
}

// A connection that kept much, and keeps little now, has no more memory than that needs.
func TestTailGivesMemoryBack(t *testing.T) {
	c, s := newConnections(slog.New(slog.DiscardHandler)), &streamReader{}
	c.keep(s, make([]byte, 17_000))
	c.keep(s, []byte("host.a"))
	if n := cap(s.tail.data); n > 1000 || string(s.tail.data) != "host.a" || c.kept != len("host.a") {
		t.Errorf("%d bytes of memory for %q, counted as %d", n, s.tail.data, c.kept)
	}
}
