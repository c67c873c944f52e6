package store

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
)

// openBench opens a store on tmpfs, where there is one.
func openBench(b *testing.B, to ...Destination) *Store {
	b.Helper()
	memory, err := os.MkdirTemp("/dev/shm", "store-bench-")
	if err != nil {
		b.Skip("no tmpfs at /dev/shm: ", err)
	}
	b.Cleanup(func() { os.RemoveAll(memory) })
	s, err := Open(Places{State: b.TempDir(), Memory: []string{memory}}, to, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.abandon)
	return s
}

func reportLines(b *testing.B, lines int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(lines), "ns/line")
}

// BenchmarkPass puts batches, sends them and has them acknowledged and delivered: what a
// line costs that does not wait.
func BenchmarkPass(b *testing.B) {
	for _, c := range []struct {
		name         string
		lines        int // of a batch
		destinations int
	}{{"64KiB", 650, 1}, {"64KiB-2", 650, 2}, {"1line", 1, 1}} {
		b.Run(c.name, func(b *testing.B) {
			var to []Destination
			for i := range c.destinations {
				to = append(to, Destination{Name: string(rune('a' + i)), Queue: 64 << 20, Replay: 4 << 20})
			}
			s := openBench(b, to...)
			lines := many("x", c.lines)
			now := time.Now()
			for _, c := range s.cursors {
				c.Begin(now.Add(-young), outlet.Session{Upstream: "upstream"})
			}
			b.SetBytes(int64(len(lines)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if i%100 == 0 {
					now = now.Add(50 * time.Millisecond)
				}
				s.Put(lines, c.lines, now, false)
				for _, c := range s.cursors {
					out, _, _ := c.Next(now)
					c.Wrote(now, len(out))
					c.Ack(now, outlet.Peer{Acked: c.written})
				}
			}
			reportLines(b, c.lines)
		})
	}
}

// BenchmarkMoveDown moves what is put to disk.
func BenchmarkMoveDown(b *testing.B) {
	s := openBench(b, Destination{Name: "a", Queue: 8 << 20, Spool: 256 << 20})
	lines := many("x", 650)
	now := time.Now()
	b.SetBytes(int64(len(lines)))
	for b.Loop() {
		s.Put(lines, 650, now, false)
		for s.isPressed() {
			s.step(now)
		}
	}
	reportLines(b, 650)
}

// BenchmarkOpen adopts 3 million lines.
func BenchmarkOpen(b *testing.B) {
	s := openBench(b, Destination{Name: "a", Queue: 512 << 20, Spool: 1 << 30})
	const lines = 3_000_000
	batch := bytes.Repeat([]byte("host.some.metric.name.of.a.usual.length 12.5 1700000000\n"), 1000)
	for range lines / 1000 {
		s.Put(batch, 1000, time.Now(), false)
	}
	places := Places{State: filepath.Dir(s.disk.Path())}
	for b.Loop() {
		s.abandon()
		next, err := Open(places, []Destination{s.cursors[0].Destination}, slog.New(slog.DiscardHandler))
		if err != nil {
			b.Fatal(err)
		}
		if got := next.Books()[0]; got.Adopted != lines {
			b.Fatalf("%+v", got)
		}
		s = next
	}
}
