package inlet

import (
	"fmt"
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
	bytes := func() (n, tails int) {
		in.tails.mu.Lock()
		defer in.tails.mu.Unlock()
		return in.tails.bytes, len(in.tails.kept)
	}
	eventually(t, "all is read", func() bool {
		in.connections.mu.Lock()
		defer in.connections.mu.Unlock()
		in.tails.mu.Lock()
		defer in.tails.mu.Unlock()
		n := len(in.tails.kept)
		for s := range in.connections.readers {
			if s.tail.lost > 0 {
				n++
			}
		}
		if in.tails.bytes > maxTails {
			t.Fatalf("%d bytes are kept", in.tails.bytes)
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
	eventually(t, "nothing is kept", func() bool { n, tails := bytes(); return n == 0 && tails == 0 })
}
