package inlet

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/line"
)

// patience bounds every wait of the tests; none should come near.
const patience = 20 * time.Second

// A book is what all handlers of a test were given.
type book struct {
	mu      sync.Mutex
	lines   []string          // whole ones
	dropped map[Reason]string // all bytes, by reason
	lost    int               // bytes of cut datagrams
	log     strings.Builder
}

func (b *book) Lines() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.lines)
}

func (b *book) count(prefix string) (n int) {
	for _, ln := range b.Lines() {
		if strings.HasPrefix(ln, prefix) {
			n++
		}
	}
	return n
}

func (b *book) Dropped(why Reason) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped[why]
}

func (b *book) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Write(p)
}

// logged returns how many lines of the log hold text.
func (b *book) logged(text string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Count(b.log.String(), text)
}

// A pupil is a Handler that knows no more of lines than that '\n' ends them.
type pupil struct {
	book *book
	open bool
	skip bool // up to the next end of a line
}

func (p *pupil) Begin(time.Time) {
	if p.open {
		panic("Begin without End")
	}
	p.open = true
}

func (p *pupil) End() { p.open = false }

func (p *pupil) Stream(data []byte) []byte {
	if p.skip {
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			return nil
		}
		p.skip, data = false, data[end:]
	}
	i := bytes.LastIndexByte(data, '\n') + 1
	p.take(data[:i])
	return data[i:]
}

func (p *pupil) take(data []byte) {
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	for ln := range strings.Lines(string(data)) {
		p.book.lines = append(p.book.lines, strings.TrimSuffix(ln, "\n"))
	}
}

func (p *pupil) Datagram(data []byte, lost int) {
	p.take(data)
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	p.book.lost += lost
}

func (p *pupil) Drop(why Reason, rest []byte) {
	p.book.mu.Lock()
	defer p.book.mu.Unlock()
	p.book.dropped[why] += string(rest)
	p.skip = why == TooLong
}

// A running is an Inlet at work.
type running struct {
	*Inlet
	*book
	stop func() // ends it and waits; may be called twice
}

var defaults = Settings{Coalesce: time.Millisecond, MaxConnections: 1000}

// start runs an Inlet until the end of the test, or until stop.
func start(t testing.TB, s Settings, at ...address.Address) *running {
	t.Helper()
	r := bound(t, nil, at...)
	r.run(t, s)
	return r
}

// bound returns an Inlet that is bound, and does not run yet.
func bound(t testing.TB, inherited []*os.File, at ...address.Address) *running {
	t.Helper()
	b := &book{dropped: map[Reason]string{}}
	in := New(slog.New(slog.NewTextHandler(b, nil)), func(line.Protocol, func() string) Handler { return &pupil{book: b} })
	var specs []Spec
	for _, a := range at {
		specs = append(specs, Spec{line.StatsD, a})
	}
	if err := in.Bind(t.Context(), specs, inherited); err != nil {
		t.Fatal(err)
	}
	return &running{Inlet: in, book: b, stop: in.poller.Close}
}

// run begins to read.
func (r *running) run(t testing.TB, s Settings) {
	ctx, cancel := context.WithCancel(context.Background())
	r.Begin(ctx, s)
	r.stop = func() {
		cancel()
		r.Wait()
	}
	t.Cleanup(r.stop)
}

var (
	localTCP = address.Address{Network: "tcp", Host: "127.0.0.1"}
	localUDP = address.Address{Network: "udp", Host: "127.0.0.1"}
)

func dialTo(t testing.TB, a address.Address) net.Conn {
	t.Helper()
	target := a.Path
	if !a.IsUnix() {
		target = a.HostPort()
	}
	conn, err := net.Dial(a.Network, target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// dial connects to the i-th listener.
func (r *running) dial(t testing.TB, i int) net.Conn {
	t.Helper()
	return dialTo(t, r.Listeners()[i].Address)
}

func write(t testing.TB, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Error(err)
	}
}

// eventually waits until cond holds.
func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	late := time.After(patience)
	for !cond() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("never happened: %s", what)
		}
	}
}

// came waits until all these lines have come.
func (r *running) came(t testing.TB, want ...string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q among %d lines", want, len(r.Lines())), func() bool {
		lines := r.Lines()
		return !slices.ContainsFunc(want, func(w string) bool { return !slices.Contains(lines, w) })
	})
}

// ends waits until the other side has closed conn.
func ends(t testing.TB, conn net.Conn) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Fatalf("the connection stays open: %v", err)
	}
}
