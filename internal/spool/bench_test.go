package spool

import (
	"bytes"
	"io"
	"testing"
	"time"
)

// benchLines is a batch of 64 KiB of lines of 100 bytes.
var benchLines = bytes.Repeat(append(bytes.Repeat([]byte("x"), 82), " 3.4567 1700000000"[:17]+"\n"...), 655)

func reportLines(b *testing.B, lines int) {
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(lines), "ns/line")
}

// BenchmarkAppend writes to the page cache; the oldest segments go meanwhile.
func BenchmarkAppend(b *testing.B) {
	s, _ := open(b, b.TempDir(), 256<<20)
	n := bytes.Count(benchLines, []byte("\n"))
	now := time.Now()
	b.SetBytes(int64(len(benchLines)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Append(Named, now, n, benchLines); err != nil {
			b.Fatal(err)
		}
	}
	reportLines(b, n)
}

// BenchmarkNext reads what was just written, over and over.
func BenchmarkNext(b *testing.B) {
	s, _ := open(b, b.TempDir(), 128<<20)
	n := bytes.Count(benchLines, []byte("\n"))
	for range 1000 {
		mustAppend(b, s, benchLines)
	}
	var buf []byte
	b.SetBytes(int64(len(benchLines)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.Next(buf[:0])
		if err == io.EOF {
			b.StopTimer()
			s, _ = reopen(b, s)
			b.StartTimer()
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		buf = r.Data
	}
	reportLines(b, n)
}

// BenchmarkDrain appends, gives out and commits, batch by batch: the spool is
// empty after each, the worst case for making and removing files.
func BenchmarkDrain(b *testing.B) {
	s, _ := open(b, b.TempDir(), 128<<20)
	n := bytes.Count(benchLines, []byte("\n"))
	now := time.Now()
	var buf []byte
	b.SetBytes(int64(len(benchLines)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.Append(Named, now, n, benchLines); err != nil {
			b.Fatal(err)
		}
		r, err := s.Next(buf[:0])
		if err != nil {
			b.Fatal(err)
		}
		buf = r.Data
		if err := s.Commit(r); err != nil {
			b.Fatal(err)
		}
	}
	reportLines(b, n)
}

// BenchmarkBacklog gives out and commits a backlog, batch by batch.
func BenchmarkBacklog(b *testing.B) {
	s, _ := open(b, b.TempDir(), 128<<20)
	n := bytes.Count(benchLines, []byte("\n"))
	var buf []byte
	b.SetBytes(int64(len(benchLines)))
	b.ReportAllocs()
	for b.Loop() {
		r, err := s.Next(buf[:0])
		if err == io.EOF {
			b.StopTimer()
			for range 1000 {
				mustAppend(b, s, benchLines)
			}
			b.StartTimer()
			continue
		}
		if err != nil {
			b.Fatal(err)
		}
		buf = r.Data
		if err := s.Commit(r); err != nil {
			b.Fatal(err)
		}
	}
	reportLines(b, n)
}
