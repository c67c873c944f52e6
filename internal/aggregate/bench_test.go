package aggregate

import (
	"fmt"
	"testing"
)

// BenchmarkAdd is the cost of lines of known series.
func BenchmarkAdd(b *testing.B) {
	for _, series := range []int{1000, 50_000} {
		b.Run(fmt.Sprintf("%d series", series), func(b *testing.B) {
			a, _ := Open(DefaultConfig(), nil, at(0))
			const block = 50 // lines: what a read brings
			var blocks [][]byte
			for i := range series {
				if i%block == 0 {
					blocks = append(blocks, nil)
				}
				last := &blocks[len(blocks)-1]
				*last = fmt.Appendf(*last, "\x01.api.requests.%d.status:1|c\n", i*7919%series)
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				putAll(a, blocks[i%len(blocks)])
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*block), "ns/line")
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
	a.SetNamed(true, at(0))
	for i := range 100_000 {
		putAll(a, fmt.Appendf(nil, "\x01.api.requests.%d.status:1|c\n", i))
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
		more = a.Take(256)
		if out = a.Points(out[:0]); !more {
			a.Flushed()
		}
	}
}
