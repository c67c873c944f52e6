package inlet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// frame puts the length before a packet.
func frame(packet string) string {
	return string(binary.LittleEndian.AppendUint32(nil, uint32(len(packet)))) + packet
}

// reads hands a stream to a framing in pieces that end at cuts, as a reader does,
// and then its end.
func reads(f *framing, stream string, cuts []int) *book {
	b := &book{dropped: map[Reason]string{}}
	h := &pupil{book: b}
	rest, from := "", 0
	for _, to := range append(cuts, len(stream)) {
		if to > from {
			rest = string(f.take(h, []byte(rest+stream[from:to])))
			from = to
		}
	}
	if rest != "" {
		f.end(h, []byte(rest))
	}
	return b
}

// everyCut calls try with all ways to cut n bytes into three, and at every byte.
func everyCut(n int, try func(cuts []int)) {
	each := []int{}
	for i := range n {
		each = append(each, i)
		for j := i; j < n; j++ {
			try([]int{i, j})
		}
	}
	try(each)
}

// A framed stream is understood wherever reads end.
func TestFramedStream(t *testing.T) {
	stream := frame("") + frame("host.a:1|c\nhost.b:2|c") + frame("host.c:3|c\n") + frame("") + frame("x") + frame("host.d:4|c\nhost.e:5|c\n")
	want := strings.Fields("host.a:1|c host.b:2|c host.c:3|c x host.d:4|c host.e:5|c")
	everyCut(len(stream), func(cuts []int) {
		b := reads(&framing{understands: true}, stream, cuts)
		if !slices.Equal(b.lines, want) || len(b.dropped) > 0 {
			t.Fatalf("cut at %v: got %q and dropped %q, want %q", cuts, b.lines, b.dropped, want)
		}
	})
}

// A framed stream that ends within a packet has its whole lines, and its cut one
// dropped.
func TestFramedStreamEnds(t *testing.T) {
	packet := "host.a:1|c\nhost.b:25|c\n"
	for end := headLen; end < headLen+len(packet); end++ {
		b := reads(&framing{understands: true}, frame(packet)[:end], nil)
		whole, cut, _ := strings.Cut(packet[:end-headLen], "\n")
		if !strings.Contains(packet[:end-headLen], "\n") {
			whole, cut = "", packet[:end-headLen]
		}
		if got := strings.Join(b.lines, ""); got != whole || b.dropped[Unterminated] != cut {
			t.Errorf("%q: got %q and %q", packet[:end-headLen], b.lines, b.dropped)
		}
	}
}

// Lines are lines wherever reads end, however short they are.
func TestPlainStream(t *testing.T) {
	for _, stream := range []string{"host.a:1|c\nhost.b:2|c\n", "a\nb\n", "a\n", "\n\n\n\na\n", "\r\n\r\n", "\r\n\r\na\n", "\r\n\ta\n", "\xff\xfea\nb\n", "a", "GET /a:1|c\nGET / HTTP/1.1\n", "POST /a", "PUT\na\n"} {
		for _, understands := range []bool{true, false} {
			want := reads(&framing{kind: lines}, stream, nil)
			everyCut(len(stream), func(cuts []int) {
				b := reads(&framing{understands: understands}, stream, cuts)
				if !slices.Equal(b.lines, want.lines) || b.dropped[Unterminated] != want.dropped[Unterminated] || b.dropped[Misframed] != "" {
					t.Fatalf("%q cut at %v: got %q and dropped %q", stream, cuts, b.lines, b.dropped)
				}
			})
		}
	}
}

// No other framing is half understood: nothing of it becomes a line.
func TestOtherFramings(t *testing.T) {
	packet := strings.Repeat("host.a:1|c\n", 20)
	n := len(packet)
	be := binary.BigEndian
	heads := map[string][]byte{
		"4 bytes, big-endian":      be.AppendUint32(nil, uint32(n)),
		"2 bytes, big-endian":      be.AppendUint16(nil, uint16(n)),
		"2 bytes, little-endian":   binary.LittleEndian.AppendUint16(nil, uint16(n)),
		"8 bytes, little-endian":   binary.LittleEndian.AppendUint64(nil, uint64(n)),
		"8 bytes, big-endian":      be.AppendUint64(nil, uint64(n)),
		"3 bytes, big-endian":      be.AppendUint32(nil, uint32(n))[1:],
		"4 bytes, too long":        binary.LittleEndian.AppendUint32(nil, maxFrame+1),
		"4 bytes, empty":           {0, 0, 0, 0},
		"a type behind the length": append(binary.LittleEndian.AppendUint32(nil, uint32(n)), 1),
		"pickle":                   append(be.AppendUint32(nil, uint32(n)), "\x80\x02]q\x00"...),
		"PROXY protocol":           []byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01\x04\xd2\x07\xd3"),
		"TLS":                      []byte("\x16\x03\x01\x02\x01"),
		"TLS, short":               []byte("\x16\x03\x03\x00\xc8\x01"),
		"gzip":                     []byte("\x1f\x8b\x08\x08"),
		"gzip, without a name":     []byte("\x1f\x8b\x08\x00"),
		"4 bytes, 2 GiB":           {0xff, 0xff, 0xff, 0x7f},
		"HTTP":                     []byte("POST /x HTTP/1.1\r\nHost: localhost\r\n\r\n"),
		"HTTP/1.0":                 []byte("GET http://localhost:8125/a?b HTTP/1.0\n"),
		"HTTP/2":                   []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		"4 bytes, -1":              {0xff, 0xff, 0xff, 0xff},
		"zstd":                     []byte("\x28\xb5\x2f\xfd"),
	}
	for name, head := range heads {
		stream := strings.Repeat(string(head)+packet, 2)
		everyCut(len(head)+6, func(cuts []int) {
			b := reads(&framing{understands: true}, stream, cuts)
			if len(b.lines) > 0 || strings.Count(b.dropped[Misframed], "\n") != strings.Count(stream, "\n") {
				t.Fatalf("%s cut at %v: %q became lines, %d were dropped", name, cuts, b.lines, strings.Count(b.dropped[Misframed], "\n"))
			}
		})
	}
	// Those are known wherever lines are expected.
	for _, stream := range []string{"\r\n\r\n\x00\r\nQUIT\na:1|c\n", "\x16\x03\x01\x02\x01a:1|c\n", "\x16\x03\x02\x02\x01a:1|c\n", "PUT / HTTP/1.1\na:1|c\n"} {
		everyCut(len(stream), func(cuts []int) {
			if b := reads(&framing{}, stream, cuts); len(b.lines) > 0 || b.dropped[Misframed] != stream {
				t.Fatalf("%q cut at %v: got %q and dropped %q", stream, cuts, b.lines, b.dropped)
			}
		})
	}
	// The first line of one may be as long as it likes.
	long := "GET /" + strings.Repeat("x", MaxRest) + " HTTP/1.1\r\n\r\n" + packet
	if b := reads(&framing{}, long, []int{10, MaxRest - 1, MaxRest, MaxRest + 1}); len(b.lines) > 0 {
		t.Errorf("%d lines came behind a long request", len(b.lines))
	}
	// Where ours is not expected, it is one of the others.
	for _, cuts := range [][]int{nil, {1, 3}} {
		if b := reads(&framing{}, frame(packet), cuts); len(b.lines) > 0 || b.dropped[Misframed] == "" {
			t.Errorf("by another kind of socket: %q became lines", b.lines)
		}
	}
	// A stream may get out of step.
	if b := reads(&framing{understands: true}, frame("host.a:1|c\n")+"host.b:1|c\n", nil); !slices.Equal(b.lines, []string{"host.a:1|c"}) || b.dropped[Misframed] != "host.b:1|c\n" {
		t.Errorf("got %q and dropped %q", b.lines, b.dropped)
	}
}

// Framed and plain clients share a listener, and who is not understood is told.
func TestFramedAndPlainClients(t *testing.T) {
	in := start(t, defaults, address.Address{Network: "unix", Path: socketPath(t, "s")})
	framedConn, plain, other := in.dial(t, 0), in.dial(t, 0), in.dial(t, 0)
	write(t, framedConn, frame("framed.1\nframed.2"))
	write(t, plain, "plain.1\nplain.2\n")
	write(t, other, "\x00\x00\x00\x08other.1\n")
	in.came(t, "framed.1", "framed.2", "plain.1", "plain.2")
	eventually(t, "the other is dropped", func() bool { return in.Dropped(Misframed) != "" })
	ends(t, other)
	if _, err := io.WriteString(other, "other.2\n"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v, want EPIPE", err)
	}
	write(t, framedConn, frame("framed.3"))
	write(t, plain, "plain.3\n")
	in.came(t, "framed.3", "plain.3")
}

// The head of a packet may begin like another protocol.
func TestPacketOf790Bytes(t *testing.T) {
	ln := "host.a:1|c|#" + strings.Repeat("x", 0x0316-len("host.a:1|c|#"))
	everyCut(headLen+2, func(cuts []int) {
		if b := reads(&framing{understands: true}, frame(ln), cuts); !slices.Equal(b.lines, []string{ln}) {
			t.Fatalf("cut at %v: got %d lines, and dropped %q", cuts, len(b.lines), b.dropped)
		}
	})
}

// FuzzFraming compares with the obvious way, on the whole stream.
func FuzzFraming(f *testing.F) {
	f.Add([]byte(frame("a:1|c\nb:2|c")+frame("c:3|c\n")), uint64(1))
	f.Add([]byte("a:1|c\nb:2|c\n"), uint64(2))
	f.Add([]byte("\x00\x00\x00\x05a:1|c"), uint64(3))
	f.Add([]byte("\x16\x03\x00\x00a:1|c"), uint64(4))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		rng := rand.New(rand.NewPCG(seed, 0))
		var cuts []int
		for at := 0; at < len(stream); at += 1 + rng.IntN(7) {
			cuts = append(cuts, at)
		}
		got := reads(&framing{understands: true}, string(stream), cuts)
		want := obvious(string(stream))
		if fmt.Sprintf("%q %q", got.lines, got.dropped) != fmt.Sprintf("%q %q", want.lines, want.dropped) {
			t.Errorf("%q cut at %v:\ngot  %q %q\nwant %q %q", stream, cuts, got.lines, got.dropped, want.lines, want.dropped)
		}
	})
}

// obvious is what a stream holds.
func obvious(s string) *book {
	b := &book{dropped: map[Reason]string{}}
	h := &pupil{book: b}
	finish := func(text string) {
		if rest := string(h.Stream([]byte(text))); rest != "" {
			h.Drop(Unterminated, []byte(rest))
		}
	}
	misframed := func(rest string) {
		if rest != "" {
			h.Drop(Misframed, []byte(rest))
		}
	}
	isFramed := func(s string) bool {
		n := binary.LittleEndian.Uint32([]byte(s))
		return n <= 1<<20
	}
	foreign := regexp.MustCompile("^(\r\n\r\n\\x00|\\x16\\x03[\\x01-\\x03]|\\x28\\xb5\\x2f\\xfd|\\x1f\\x8b\\x08|\\xff\\xff\\xff\\xff|[A-Z]{3,}( .*)? HTTP/[0-9.]+\r?\n)")
	switch {
	case len(s) < 4:
		finish(s)
		return b
	case foreign.MatchString(latin1(s)), !isFramed(s) && strings.ContainsFunc(s[:4], isForeign):
		misframed(s)
		return b
	case !isFramed(s):
		finish(s)
		return b
	}
	for len(s) >= 4 {
		if !isFramed(s) {
			misframed(s)
			return b
		}
		n := int(binary.LittleEndian.Uint32([]byte(s)))
		s = s[4:]
		if n == 0 {
			continue
		}
		if s != "" && (s[0] < ' ' && !strings.ContainsAny(s[:1], "\t\n\r") || s[0] == 0x7f) {
			misframed(s)
			return b
		}
		if len(s) < n {
			finish(s)
			return b
		}
		h.Datagram([]byte(s[:n]), 0)
		s = s[n:]
	}
	return b
}

// latin1 makes a character of each byte.
func latin1(s string) string {
	var b strings.Builder
	for _, c := range []byte(s) {
		b.WriteRune(rune(c))
	}
	return b.String()
}

// No line of a web page is taken, though there be no room for the head of its request.
func TestRequestThatIsGivenUp(t *testing.T) {
	t.Parallel()
	in := start(t, defaults, localTCP)
	const requests, size = 300, 17_000
	var conns []net.Conn
	for range requests {
		conn := in.dial(t, 0)
		write(t, conn, "POST /"+strings.Repeat("x", size))
		conns = append(conns, conn)
	}
	eventually(t, "all are read, and some given up", func() bool {
		in.connections.mu.Lock()
		defer in.connections.mu.Unlock()
		kept, lost := 0, 0
		for s := range in.connections.running {
			if s.tail.lost > 0 {
				lost++
			} else if len(s.tail.data) > size {
				kept++
			}
		}
		return kept+lost == requests && lost > 0
	})
	for _, conn := range conns {
		write(t, conn, " HTTP/1.1\nhost.a:1|c\n")
	}
	for _, conn := range conns {
		ends(t, conn)
	}
	if n := in.count("host"); n > 0 {
		t.Errorf("%d lines of requests were taken", n)
	}
}
