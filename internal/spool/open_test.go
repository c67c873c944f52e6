package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// A sample is a segment of three records, as a file.
type sample struct {
	file    []byte
	records []string
	ends    []int // where in the file each of them ends
}

func newSample(t testing.TB) sample {
	t.Helper()
	s, _ := open(t, t.TempDir(), roomy)
	var p sample
	for i := range 3 {
		mustAppend(t, s, lines(i, i+1))
		p.records = append(p.records, string(lines(i, i+1)))
		p.ends = append(p.ends, int(s.segments[0].end))
	}
	var err error
	if p.file, err = os.ReadFile(segmentFiles(t, s.dir)[0]); err != nil {
		t.Fatal(err)
	}
	return p
}

// whole returns how many records lie whole in the first n bytes, and where the
// last of them ends.
func (p sample) whole(n int) (count, end int) {
	for i, e := range p.ends {
		if e <= n {
			count, end = i+1, e
		}
	}
	return count, end
}

// writeSegment puts file into dir as the segment with that sequence.
func writeSegment(t testing.TB, dir string, sequence uint64, file []byte) (path string) {
	t.Helper()
	path = filepath.Join(dir, segmentName(sequence))
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestEveryTruncation(t *testing.T) {
	p := newSample(t)
	for n := range len(p.file) + 1 {
		dir := t.TempDir()
		path := writeSegment(t, dir, 1, p.file[:n])
		s, report := open(t, dir, roomy)

		count, end := p.whole(n)
		if got, lost := rest(t, s); !slices.Equal(got, p.records[:count]) || lost != 0 {
			t.Fatalf("cut at %d: got %q and %d lost, want the first %d records", n, got, lost, count)
		}
		if end == 0 && n >= segmentHeader {
			end = segmentHeader
		}
		var want []Lost
		if n > end {
			want = []Lost{{path, int64(end), int64(n - end)}}
		}
		if !slices.Equal(report.Lost, want) || report.SetAside != nil {
			t.Fatalf("cut at %d: report %+v, want %+v lost", n, report, want)
		}
		if got := diskUse(t, dir); got != s.Stats().Disk {
			t.Fatalf("cut at %d: the files have %d bytes, stats say %d", n, got, s.Stats().Disk)
		}
		if _, again := reopen(t, s); again.Lost != nil {
			t.Fatalf("cut at %d: a second Open reports %+v again", n, again.Lost)
		}
		s.abort()
	}
}

// A flipped bit costs the record in whose data it is, or the records from the
// one on in whose header it is, or all, in the header of the segment; never one
// of another segment.
func TestEveryFlippedBit(t *testing.T) {
	p := newSample(t)
	survivors := func(at int) []string {
		start := segmentHeader
		for i, end := range p.ends {
			switch {
			case at < segmentHeader:
				return nil
			case at < start+recordHeader:
				return p.records[:i]
			case at < end:
				return slices.Concat(p.records[:i], p.records[i+1:])
			}
			start = end
		}
		panic("at is not in the file")
	}
	for at := range p.file {
		damaged := bytes.Clone(p.file)
		damaged[at] ^= 1 << (at % 8)
		for _, last := range []bool{true, false} {
			dir := t.TempDir()
			path := writeSegment(t, dir, 1, damaged)
			want := survivors(at)
			if !last {
				next := newSegment(dir, 2)
				one := header{kind: Named, tally: tally{1, int64(len(lines(9, 1)))}}
				writeSegment(t, dir, 2, next.appendRecord(appendSegmentHeader(nil, 2), one, lines(9, 1)))
				want = append(slices.Clone(want), string(lines(9, 1)))
			}
			s, report := open(t, dir, roomy)
			got, lost := rest(t, s)
			if !slices.Equal(got, want) {
				t.Fatalf("byte %d, last %v: got %q, want %q", at, last, got, want)
			}
			told := report.Lost != nil || slices.Equal(report.SetAside, []string{path + asideSuffix})
			if lost == 0 && !told {
				t.Fatalf("byte %d, last %v: nobody was told", at, last)
			}
			if booked := report.Lines - lost; booked != bytes.Count([]byte(join(got)), []byte("\n")) {
				t.Fatalf("byte %d, last %v: %d lines found, %d lost, %q given out", at, last, report.Lines, lost, got)
			}
			if left := s.Stats().Lines; left != report.Lines-lost {
				t.Fatalf("byte %d, last %v: stats have %d lines, want %d", at, last, left, report.Lines-lost)
			}
			s.abort()
		}
	}
}

func join(records []string) (all string) {
	for _, r := range records {
		all += r
	}
	return all
}

// After a power failure a file may have its length and not its data.
func TestTailWithoutItsData(t *testing.T) {
	p := newSample(t)
	torn := bytes.Clone(p.file)
	clear(torn[p.ends[0]+recordHeader : p.ends[1]])
	clear(torn[p.ends[1]+recordHeader+10:])
	dir := t.TempDir()
	path := writeSegment(t, dir, 1, torn)
	s, report := open(t, dir, roomy)
	end := int64(p.ends[0])
	if want := []Lost{{path, end, int64(len(torn)) - end}}; report.Lines != 1 || !slices.Equal(report.Lost, want) {
		t.Errorf("report: got %+v, want 1 line, and %+v lost", report, want)
	}
	mustNext(t, s, []byte(p.records[0]))
	wantEmpty(t, s)
}

// Damage that comes while the spool is open is found by Next.
func TestHeaderDamagedWhileOpen(t *testing.T) {
	p := newSample(t)
	dir := t.TempDir()
	path := writeSegment(t, dir, 1, p.file)
	s, _ := open(t, dir, roomy)
	first := mustNext(t, s, []byte(p.records[0]))

	damaged := bytes.Clone(p.file)
	damaged[p.ends[0]] ^= 1
	if err := os.WriteFile(path, damaged, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, lost := rest(t, s); got != nil || lost != 2+3 {
		t.Errorf("got %q and %d lost, want nothing and 5 lost", got, lost)
	}
	mustCommit(t, s, first)
	if files := segmentFiles(t, dir); len(files) != 0 {
		t.Errorf("segments: got %v, want none: what is lost is committed with the record before", files)
	}
}

func TestHeaderDamagedWhileWriting(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	mustAppend(t, s, lines(0, 1))
	mustNext(t, s, lines(0, 1))
	at := s.segments[0].end
	mustAppend(t, s, lines(1, 1))
	f, err := os.OpenFile(segmentFiles(t, s.dir)[0], os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, recordHeader), at); err != nil {
		t.Fatal(err)
	}
	s.peekedAt = position{}
	if got, lost := rest(t, s); got != nil || lost != 1 {
		t.Fatalf("got %q and %d lost, want nothing and 1 lost", got, lost)
	}
	mustAppend(t, s, lines(2, 1))
	s, _ = reopen(t, s)
	mustNext(t, s, lines(0, 1))
	mustNext(t, s, lines(2, 1))
}

func TestLostBetweenCommits(t *testing.T) {
	p := newSample(t)
	damaged := bytes.Clone(p.file)
	damaged[p.ends[1]-1] ^= 1 // in the data of the second
	dir := t.TempDir()
	writeSegment(t, dir, 1, damaged)
	s, _ := open(t, dir, roomy)

	first := mustNext(t, s, []byte(p.records[0]))
	if _, err := s.Next(nil); !damage(err) {
		t.Fatalf("got %v, want a wrong checksum", err)
	}
	if got := s.Stats().Lines; got != 1+3 {
		t.Errorf("lines: got %d, want 4", got)
	}
	mustCommit(t, s, first)
	s, report := reopen(t, s)
	if report.Lines != 3 {
		t.Errorf("found: got %d lines, want 3: the damage was committed with what was before it", report.Lines)
	}
	mustNext(t, s, []byte(p.records[2]))
}

func TestForeignFiles(t *testing.T) {
	p := newSample(t)
	dir := t.TempDir()
	foreign := writeSegment(t, dir, 1, []byte("something else, and longer than a header"))
	newer := bytes.Clone(p.file)
	newer[len(magic)]++ // the version
	binary.LittleEndian.PutUint32(newer[20:], crc32.Checksum(newer[:20], castagnoli))
	later := writeSegment(t, dir, 2, newer)
	elsewhere := writeSegment(t, dir, 3, p.file) // which is called 1
	if err := os.WriteFile(filepath.Join(dir, "README.spool"), []byte("not ours"), 0o600); err != nil {
		t.Fatal(err)
	}

	s, report := open(t, dir, roomy)
	want := []string{foreign + asideSuffix, later + asideSuffix, elsewhere + asideSuffix}
	if !slices.Equal(report.SetAside, want) || report.Lost != nil {
		t.Errorf("report: got %+v, want %q set aside", report, want)
	}
	for _, path := range want {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	mustAppend(t, s, lines(0, 1))
	s, report = reopen(t, s)
	if report.SetAside != nil {
		t.Errorf("a second Open reports %q again", report.SetAside)
	}
	mustNext(t, s, lines(0, 1))
}

func TestDamagedCursor(t *testing.T) {
	for _, content := range []string{"", "short", "not a cursor, and longer than one"} {
		s, _ := open(t, t.TempDir(), roomy)
		mustAppend(t, s, lines(0, 1))
		mustAppend(t, s, lines(1, 1))
		mustCommit(t, s, mustNext(t, s, lines(0, 1)))
		if err := os.WriteFile(s.cursor.path(), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		s, _ = reopen(t, s)
		mustNext(t, s, lines(0, 1)) // once more, rather than never
		mustNext(t, s, lines(1, 1))
	}
}

// After a power failure the cursor may know more than the segment, and the
// segment may be gone. What comes after must not lie before the cursor.
func TestCursorAheadOfTheSegments(t *testing.T) {
	for _, left := range []int64{-1, 0, segmentHeader, 100} {
		s, _ := open(t, t.TempDir(), roomy)
		for i := range 3 {
			mustAppend(t, s, lines(i, 3))
		}
		mustNext(t, s, lines(0, 3))
		mustCommit(t, s, mustNext(t, s, lines(1, 3)))
		path := segmentFiles(t, s.dir)[0]
		if left < 0 {
			os.Remove(path)
		} else if err := os.Truncate(path, left); err != nil {
			t.Fatal(err)
		}
		s, _ = reopen(t, s)
		wantEmpty(t, s)
		mustAppend(t, s, lines(7, 1))
		s, _ = reopen(t, s)
		mustNext(t, s, lines(7, 1))
	}
}

func TestCursorThatCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, cursorName), 0o700); err != nil {
		t.Fatal(err)
	}
	if s, _, err := Open(dir, roomy); err == nil {
		s.abort()
		t.Error("got no error")
	}
}

func TestOpenSmallerThanBefore(t *testing.T) {
	s, _ := open(t, t.TempDir(), 64<<10)
	for i := range 40 {
		mustAppend(t, s, lines(i, 30))
	}
	s.abort()
	s, report := open(t, s.dir, 8<<10)
	dropped := mustAppend(t, s, lines(40, 30))
	if got := s.Stats(); got.Lines != report.Lines+30-dropped || got.Disk > 8<<10 {
		t.Errorf("found %d lines, dropped %d, stats %+v", report.Lines, dropped, got)
	}
}
