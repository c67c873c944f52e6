package aggregate

import (
	"fmt"
	"testing"
)

// BenchmarkAdd is the cost of a line of a known series.
func BenchmarkAdd(b *testing.B) {
	for _, series := range []int{1000, 50_000} {
		b.Run(fmt.Sprintf("%d series", series), func(b *testing.B) {
			a, _ := Open(DefaultConfig(), nil, at(0))
			lines := make([][]byte, series)
			for i := range lines {
				lines[i] = fmt.Appendf(nil, "\x01.api.requests.%d.%s:1|c", i, "status")
				a.Add(lines[i])
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				a.Add(lines[i%series])
			}
		})
	}
}

// BenchmarkFlush is how long the flush of 256 counters keeps readers waiting, of 100,000;
// a slot's files included.
func BenchmarkFlush(b *testing.B) {
	dir := b.TempDir()
	cfg := DefaultConfig()
	cfg.Expire = 0
	a, err := Open(cfg, []string{dir}, at(0))
	if err != nil {
		b.Fatal(err)
	}
	a.SetNamed(true)
	for i := range 100_000 {
		a.Add(fmt.Appendf(nil, "\x01.api.requests.%d.status:1|c", i))
	}
	var out []byte
	slot := 0.0
	more := false
	b.ResetTimer()
	for b.Loop() {
		if !more {
			slot += 10
			a.Seal(at(slot))
		}
		if out, more = a.Flush(out[:0], 256); !more {
			a.Flushed()
		}
	}
}
