package spool

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// FuzzOpen opens any bytes as a segment. With seal, the sums in the headers are
// set right first, so that the fuzzer gets behind them.
func FuzzOpen(f *testing.F) {
	p := newSample(f)
	f.Add(p.file, false)
	f.Add(p.file, true)
	f.Add(p.file[:p.ends[1]+recordHeader], false)
	f.Add(append(bytes.Clone(p.file), make([]byte, 100)...), true)
	f.Add([]byte{}, false)
	first := bytes.Clone(p.file)
	first[p.ends[0]-2] ^= 1 // in the data of the first
	f.Add(first, false)
	f.Fuzz(func(t *testing.T, file []byte, seal bool) {
		if seal {
			file = sealed(file)
		}
		dir := t.TempDir()
		writeSegment(t, dir, 1, file)
		s, report := open(t, dir, roomy)
		got, lost := wellFormed(t, s)

		s, again := reopen(t, s)
		if again.Lost != nil || again.SetAside != nil || again.Lines > report.Lines {
			t.Fatalf("the second report is %+v, the first %+v", again, report)
		}
		got2, lost2 := wellFormed(t, s)
		if !slices.Equal(got, got2) || lost2 > lost { // damage before all records is told once
			t.Fatalf("the second Open gives %q and %d lost, the first %q and %d lost", got2, lost2, got, lost)
		}
		s.abort()
	})
}

// wellFormed returns what is in s, after a look at each record and the books.
func wellFormed(t *testing.T, s *Spool) (records []string, lost int) {
	t.Helper()
	found := s.Stats()
	lines := 0
	for {
		r, err := s.Next(nil)
		if err == io.EOF {
			break
		}
		if c, ok := err.(*Corrupt); ok {
			lost += c.Lines
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if (r.Kind != Named && r.Kind != Raw) || r.Lines < 1 || len(r.Data) < r.Lines || r.Data[len(r.Data)-1] != '\n' {
			t.Fatalf("record of kind %d, %d lines: %q", r.Kind, r.Lines, r.Data)
		}
		records = append(records, string(r.Data))
		lines += r.Lines
	}
	if lines+lost != found.Lines || s.Stats().Lines != lines {
		t.Fatalf("found %d lines, gave out %d, lost %d, have %d", found.Lines, lines, lost, s.Stats().Lines)
	}
	return records, lost
}

// sealed returns the file with the right sums in all headers, as far as the
// lengths lead.
func sealed(file []byte) []byte {
	file = bytes.Clone(file)
	if len(file) < segmentHeader {
		return file
	}
	appendSegmentHeader(file[:0], 1)
	seed := binary.LittleEndian.Uint32(file[20:])
	for rest := file[segmentHeader:]; len(rest) >= recordHeader; {
		h, data := rest[:recordHeader], rest[recordHeader:]
		length := min(uint64(binary.LittleEndian.Uint32(h)), uint64(len(data)))
		binary.LittleEndian.PutUint32(h[17:], crc32.Checksum(data[:length], castagnoli))
		binary.LittleEndian.PutUint32(h[21:], crc32.Update(seed, castagnoli, h[:21]))
		rest = data[length:]
	}
	return file
}

// A twin is a spool that is slow and obvious.
type twin struct {
	bound    int64
	segments [][]twinRecord
	writing  bool // the last segment takes more
	given    []twinRecord
}

type twinRecord struct {
	data  string
	lines int
	born  int // at which step
	state twinState
}

type twinState int

const (
	waiting twinState = iota
	givenOut
	committed
)

func twinSize(segment []twinRecord) int64 {
	size := int64(segmentHeader)
	for _, r := range segment {
		size += recordHeader + int64(len(r.data))
	}
	return size
}

func (w *twin) disk() int64 {
	sum := int64(cursorSize)
	for _, segment := range w.segments {
		sum += twinSize(segment)
	}
	return sum
}

func (w *twin) append(data string, lines, born int) (dropped int, fits bool) {
	size := recordHeader + int64(len(data))
	if cursorSize+segmentHeader+size > w.bound {
		return 0, false
	}
	for len(w.segments) > 0 && w.disk()+segmentHeader+size > w.bound {
		for _, r := range w.segments[0] {
			if r.state == waiting {
				dropped += r.lines
			}
		}
		w.removeOldest()
	}
	if !w.writing || twinSize(w.segments[len(w.segments)-1])+size > w.bound/4 {
		w.segments = append(w.segments, nil)
		w.writing = true
	}
	last := len(w.segments) - 1
	w.segments[last] = append(w.segments[last], twinRecord{data, lines, born, waiting})
	return dropped, true
}

func (w *twin) removeOldest() {
	w.segments = w.segments[1:]
	w.writing = w.writing && len(w.segments) > 0
}

func (w *twin) next() (string, bool) {
	for _, segment := range w.segments {
		for i := range segment {
			if segment[i].state == waiting {
				segment[i].state = givenOut
				w.given = append(w.given, segment[i])
				return segment[i].data, true
			}
		}
	}
	return "", false
}

// commit commits the first n records that were given out.
func (w *twin) commit(n int) {
	upTo := w.given[n-1].data
	w.given = w.given[n:]
	for _, segment := range w.segments {
		if !slices.ContainsFunc(segment, func(r twinRecord) bool { return r.data == upTo }) {
			continue
		}
		w.commitUpTo(upTo)
		return
	} // else its segment had to go, and all before it
}

func (w *twin) commitUpTo(data string) {
	for done := false; !done; {
		for i := range w.segments[0] {
			w.segments[0][i].state = committed
			if done = w.segments[0][i].data == data; done {
				break
			}
		}
		if w.segments[0][len(w.segments[0])-1].state == committed {
			w.removeOldest()
		}
	}
}

func (w *twin) reopen() {
	w.given, w.writing = nil, false
	for _, segment := range w.segments {
		for i := range segment {
			if segment[i].state == givenOut {
				segment[i].state = waiting
			}
		}
	}
}

// held returns the lines that are not committed.
func (w *twin) held() (lines int) {
	for _, segment := range w.segments {
		for _, r := range segment {
			if r.state == waiting {
				lines += r.lines
			}
		}
	}
	for _, r := range w.given {
		lines += r.lines
	}
	return lines
}

// oldest returns the step at which the oldest that is not committed was born;
// -1: there is none.
func (w *twin) oldest() int {
	if len(w.given) > 0 {
		return w.given[0].born
	}
	for _, segment := range w.segments {
		for _, r := range segment {
			if r.state == waiting {
				return r.born
			}
		}
	}
	return -1
}

// FuzzTwin does the same to a spool and to its twin.
func FuzzTwin(f *testing.F) {
	f.Add([]byte{0xf8, 0xf8, 1, 2, 3, 0xf8, 1, 1, 0x0a, 4})
	f.Add(bytes.Repeat([]byte{0xf8, 1}, 60))
	f.Add(bytes.Repeat([]byte{0x80, 0xf8, 1, 2, 0x40, 3, 1, 1, 0x0a}, 20))
	f.Add(append(bytes.Repeat([]byte{0xf8}, 60), bytes.Repeat([]byte{1, 2, 4}, 20)...))
	f.Add(append(bytes.Repeat([]byte{0x78, 0x10, 1}, 30), 0x0d, 0xf8, 0x1d, 0xf8, 3, 1, 2))
	f.Fuzz(func(t *testing.T, steps []byte) { besideTwin(t, steps[:min(len(steps), 400)]) })
}

// TestTwin is FuzzTwin for schedules of a seed, most of whose steps append and
// give out, so that segments fill and have to go.
func TestTwin(t *testing.T) {
	const usual = "\x00\x00\x00\x00\x00\x00\x01\x01\x01\x01\x02\x03\x05"
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 0))
		steps := make([]byte, 300)
		for i := range steps {
			steps[i] = byte(random.IntN(32))<<3 | usual[random.IntN(len(usual))]
		}
		if !t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { besideTwin(t, steps) }) {
			return
		}
	}
}

// besideTwin takes the steps with a spool and its twin: the lower three bits of
// each say which, the upper five are its number.
func besideTwin(t *testing.T, steps []byte) {
	const bound = 4096
	s, _ := open(t, t.TempDir(), bound)
	w := &twin{bound: bound}
	var given []Record
	for i, step := range steps {
		n := int(step >> 3)
		switch step & 7 {
		case 0: // append
			data := lines(i, 1+n)
			dropped, err := s.Append(Raw, born.Add(time.Duration(i)*time.Second), 1+n, data)
			wantDropped, fits := w.append(string(data), 1+n, i)
			if dropped != wantDropped || (err == nil) != fits {
				t.Fatalf("step %d: Append dropped %d, %v, want %d, fits %v", i, dropped, err, wantDropped, fits)
			}
		case 1: // next
			r, err := s.Next(nil)
			want, ok := w.next()
			if (err == nil) != ok || string(r.Data) != want {
				t.Fatalf("step %d: Next gave %q, %v, want %q", i, r.Data, err, want)
			}
			if ok {
				given = append(given, r)
			}
		case 2: // commit some of what was given out
			if len(given) == 0 {
				continue
			}
			n = 1 + n%len(given)
			mustCommit(t, s, given[n-1])
			w.commit(n)
			given = given[n:]
		case 3: // kill
			var report Report
			s, report = reopen(t, s)
			w.reopen()
			given = nil
			if report.Lost != nil || report.SetAside != nil || report.Lines != w.held() {
				t.Fatalf("step %d: Open found %+v, want %d lines", i, report, w.held())
			}
		case 4:
			if err := s.Sync(); err != nil {
				t.Fatal(err)
			}
		case 5:
			w.bound = 2048 + 128*int64(n)
			s.Resize(w.bound)
		}
		got := s.Stats()
		if got.Lines != w.held() || got.Disk != w.disk() || got.Disk != diskUse(t, s.dir) {
			t.Fatalf("step %d: stats %+v, %d bytes on disk, want %d lines, %d bytes",
				i, got, diskUse(t, s.dir), w.held(), w.disk())
		}
		if want := w.oldest(); got.Oldest.IsZero() != (want < 0) || want >= 0 && !got.Oldest.Equal(born.Add(time.Duration(want)*time.Second)) {
			t.Fatalf("step %d: the oldest is of %v, want that of step %d", i, got.Oldest, want)
		}
	}
	s.abort()
}
