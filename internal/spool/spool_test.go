package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const roomy = 1 << 20

// born is a time of the precision that the disk has.
var born = time.UnixMilli(1700000000123)

func open(t testing.TB, dir string, maxBytes int64) (*Spool, Report) {
	t.Helper()
	s, report, err := Open(dir, maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.abort)
	return s, report
}

// abort ends a spool as kill -9 would: nothing is written any more.
func (s *Spool) abort() {
	s.closeWriter()
	s.closeReader()
	s.cursor.close()
}

func reopen(t testing.TB, s *Spool) (*Spool, Report) {
	t.Helper()
	s.abort()
	return open(t, s.dir, s.bound)
}

// lines returns n lines that are like no others.
func lines(tag, n int) []byte {
	var b []byte
	for i := range n {
		b = fmt.Appendf(b, "Denali.cpu.%d.%d 3.4 1700000000\n", tag, i)
	}
	return b
}

func mustAppend(t testing.TB, s *Spool, data []byte) (dropped int) {
	t.Helper()
	dropped, err := s.Append(Named, born, bytes.Count(data, []byte("\n")), data)
	if err != nil {
		t.Fatal(err)
	}
	return dropped
}

func mustNext(t testing.TB, s *Spool, want []byte) Record {
	t.Helper()
	r, err := s.Next(nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(r.Data, want) {
		t.Fatalf("Next: got %q, want %q", r.Data, want)
	}
	return r
}

func mustCommit(t testing.TB, s *Spool, r Record) {
	t.Helper()
	if err := s.Commit(r); err != nil {
		t.Fatal(err)
	}
}

func wantEmpty(t testing.TB, s *Spool) {
	t.Helper()
	if r, err := s.Next(nil); err != io.EOF {
		t.Fatalf("Next: got %q, %v, want io.EOF", r.Data, err)
	}
}

// rest returns what Next has left to give, and how many lines it tells to be
// lost.
func rest(t testing.TB, s *Spool) (records []string, lost int) {
	t.Helper()
	for {
		r, err := s.Next(nil)
		if err == io.EOF {
			return records, lost
		}
		if c, ok := errors.AsType[*Corrupt](err); ok {
			lost += c.Lines
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		records = append(records, string(r.Data))
	}
}

func segmentFiles(t testing.TB, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestRoundTrip(t *testing.T) {
	s, report := open(t, filepath.Join(t.TempDir(), "spool"), roomy)
	if report.Lines != 0 || report.Lost != nil || report.SetAside != nil {
		t.Errorf("report of a new spool: got %+v", report)
	}
	if info, err := os.Stat(s.dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode of the directory: got %v, %v, want 0700", info.Mode(), err)
	}
	if _, err := s.Append(Raw, born, 2, []byte("host.a 1 2\nhost.b 3 4\n")); err != nil {
		t.Fatal(err)
	}
	mustAppend(t, s, lines(1, 5))

	first, err := s.Next([]byte("before "))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := string(first.Data), "before host.a 1 2\nhost.b 3 4\n"; got != want {
		t.Errorf("Data: got %q, want %q", got, want)
	}
	if first.Kind != Raw || first.Lines != 2 || !first.Born.Equal(born) {
		t.Errorf("record: got kind %d, %d lines, born %v, want %d, 2, %v", first.Kind, first.Lines, first.Born, Raw, born)
	}
	second := mustNext(t, s, lines(1, 5))
	if second.Kind != Named || second.Lines != 5 {
		t.Errorf("record: got kind %d, %d lines, want %d, 5", second.Kind, second.Lines, Named)
	}
	wantEmpty(t, s)
}

func TestAppendRefusesWhatIsNoLines(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	for _, c := range []struct {
		kind  Kind
		lines int
		data  string
	}{
		{Named, 0, ""},
		{Named, 1, ""},
		{Named, 0, "a 1 2\n"},
		{Named, 1, "a 1 2"},
		{Named, 3, "a\n"},
		{0, 1, "a 1 2\n"},
		{3, 1, "a 1 2\n"},
	} {
		if _, err := s.Append(c.kind, born, c.lines, []byte(c.data)); err == nil {
			t.Errorf("Append(%d, %d, %q): got no error", c.kind, c.lines, c.data)
		}
	}
	wantEmpty(t, s)
}

func TestCommitSurvivesKill(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	for i := range 4 {
		mustAppend(t, s, lines(i, i+1))
	}
	mustNext(t, s, lines(0, 1))
	second := mustNext(t, s, lines(1, 2))
	mustNext(t, s, lines(2, 3))
	mustCommit(t, s, second) // and the first with it

	s, report := reopen(t, s)
	if report.Lines != 3+4 || report.Bytes != int64(len(lines(2, 3))+len(lines(3, 4))) {
		t.Errorf("found: got %d lines, %d bytes, want 7, %d", report.Lines, report.Bytes, len(lines(2, 3))+len(lines(3, 4)))
	}
	mustNext(t, s, lines(2, 3))
	mustAppend(t, s, lines(9, 1))
	mustNext(t, s, lines(3, 4))
	mustNext(t, s, lines(9, 1))
	wantEmpty(t, s)
}

func TestCommitTwiceAndTooFar(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	mustAppend(t, s, lines(0, 1))
	r := mustNext(t, s, lines(0, 1))
	mustCommit(t, s, r)
	mustCommit(t, s, r)
	mustCommit(t, s, Record{})
	if got := s.Stats(); got.Lines != 0 || got.Bytes != 0 {
		t.Errorf("stats: got %+v, want nothing", got)
	}
	r.number++
	if err := s.Commit(r); err == nil {
		t.Error("commit of a record that was not given out: got no error")
	}
}

func TestCommittedSegmentsGo(t *testing.T) {
	s, _ := open(t, t.TempDir(), 16<<10)
	var last Record
	for i := range 3 {
		mustAppend(t, s, lines(i, 100)) // nearly a segment
	}
	if got := len(segmentFiles(t, s.dir)); got != 3 {
		t.Fatalf("segments: got %d, want 3", got)
	}
	for i := range 3 {
		last = mustNext(t, s, lines(i, 100))
		mustCommit(t, s, last)
		if got, want := len(segmentFiles(t, s.dir)), 2-i; got != want {
			t.Errorf("segments after commit %d: got %d, want %d", i, got, want)
		}
		if s.reader != nil && s.readerOf.sequence <= uint64(i+1) {
			t.Errorf("commit %d left a file open that is no more", i)
		}
	}
	mustAppend(t, s, lines(7, 1))
	s, _ = reopen(t, s)
	mustNext(t, s, lines(7, 1))
}

func TestOldestSegmentGoesFirst(t *testing.T) {
	const bound = 16 << 10
	s, _ := open(t, t.TempDir(), bound)
	record := func(i int) []byte { return lines(i, 35) } // about 1.1 KiB: three a segment

	appended, dropped := 0, 0
	for dropped == 0 {
		if appended == 1 {
			mustNext(t, s, record(0)) // given out: not dropped, when its segment goes
		}
		dropped = mustAppend(t, s, record(appended))
		appended++
		if got := diskUse(t, s.dir); got > bound || got != s.Stats().Disk {
			t.Fatalf("the files have %d bytes, Stats say %d, the bound is %d", got, s.Stats().Disk, bound)
		}
	}
	if dropped != 2*35 {
		t.Errorf("dropped: got %d lines, want the 70 of the first segment that were not given out", dropped)
	}
	if got, want := s.Stats().Lines, appended*35-dropped; got != want {
		t.Errorf("lines: got %d, want %d: one record is given out and not committed", got, want)
	}
	mustNext(t, s, record(3))
}

func TestResizeDropsAtTheNextAppend(t *testing.T) {
	s, _ := open(t, t.TempDir(), 64<<10)
	for i := range 40 {
		mustAppend(t, s, lines(i, 30))
	}
	s.Resize(16 << 10)
	if got := s.Stats().Lines; got != 40*30 {
		t.Errorf("lines after Resize: got %d, want 1200", got)
	}
	dropped := mustAppend(t, s, lines(40, 30))
	if got := s.Stats(); got.Lines != 41*30-dropped || got.Disk > 16<<10 || dropped == 0 {
		t.Errorf("after Append: dropped %d lines, stats %+v", dropped, got)
	}
}

func TestRecordLargerThanTheSpool(t *testing.T) {
	s, _ := open(t, t.TempDir(), 4096)
	mustAppend(t, s, lines(0, 1))
	huge := bytes.Repeat([]byte("x\n"), 2048)
	if dropped, err := s.Append(Named, born, 2048, huge); dropped != 0 || !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %d dropped, %v, want 0, %v", dropped, err, ErrTooLarge)
	}
	fits := huge[:4096-cursorSize-segmentHeader-recordHeader]
	if dropped, err := s.Append(Named, born, len(fits)/2, fits[:len(fits)/2*2]); dropped != 1 || err != nil {
		t.Errorf("got %d dropped, %v, want 1, no error", dropped, err)
	}
	if got := diskUse(t, s.dir); got > 4096 {
		t.Errorf("the files have %d bytes, the bound is 4096", got)
	}
}

func TestStatsTellTheOldest(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	want := func(age time.Duration) {
		t.Helper()
		if got := s.Stats().Oldest; !got.Equal(born.Add(age)) {
			t.Errorf("oldest: got %v, want %v", got, born.Add(age))
		}
	}
	if got := s.Stats().Oldest; !got.IsZero() {
		t.Errorf("oldest of nothing: got %v", got)
	}
	for i := range 3 {
		if _, err := s.Append(Named, born.Add(time.Duration(i)*time.Second), 1, lines(i, 1)); err != nil {
			t.Fatal(err)
		}
	}
	want(0)
	first := mustNext(t, s, lines(0, 1))
	want(0)
	mustCommit(t, s, first)
	want(time.Second)
	s, _ = reopen(t, s)
	want(time.Second)
	mustNext(t, s, lines(1, 1))
	mustCommit(t, s, mustNext(t, s, lines(2, 1)))
	if got := s.Stats(); !got.Oldest.IsZero() || got.Lines != 0 {
		t.Errorf("stats of nothing: got %+v", got)
	}
}

func TestSyncIsQuietWhenClean(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	disk := breakable(s)
	mustAppend(t, s, lines(0, 1))
	for range 3 {
		if err := s.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if disk.syncs != 1 {
		t.Errorf("syncs of the segment: got %d, want 1", disk.syncs)
	}
	if s.dirDirty || s.cursor.dirty {
		t.Errorf("after Sync: directory dirty %v, cursor dirty %v", s.dirDirty, s.cursor.dirty)
	}
}

func TestStatsWhileTheOwnerWorks(t *testing.T) {
	s, _ := open(t, t.TempDir(), 16<<10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range 200 {
			if _, err := s.Append(Named, born, 10, lines(i, 10)); err != nil {
				t.Error(err)
			}
		}
	}()
	for {
		select {
		case <-done:
			return
		default:
			if got := s.Stats(); got.Lines > 0 && (got.Bytes == 0 || got.Oldest.IsZero()) {
				t.Errorf("stats: got %+v", got)
			}
		}
	}
}

// A brokenDisk is a segment's file that fails as it is told.
type brokenDisk struct {
	segmentWriter
	writes    error // nil: as well as the real one
	lets      int   // bytes that a failing write writes
	truncates error
	syncs     int
}

func (b *brokenDisk) WriteAt(p []byte, off int64) (int, error) {
	if b.writes == nil {
		return b.segmentWriter.WriteAt(p, off)
	}
	n, err := b.segmentWriter.WriteAt(p[:min(b.lets, len(p))], off)
	return n, errors.Join(b.writes, err)
}

func (b *brokenDisk) Truncate(size int64) error {
	if b.truncates != nil {
		return b.truncates
	}
	return b.segmentWriter.Truncate(size)
}

func (b *brokenDisk) Sync() error { b.syncs++; return b.segmentWriter.Sync() }

// breakable puts a brokenDisk, which works as yet, under the segments to come.
func breakable(s *Spool) *brokenDisk {
	broken := &brokenDisk{}
	s.create = func(path string) (segmentWriter, error) {
		w, err := createSegment(path)
		broken.segmentWriter = w
		return broken, err
	}
	return broken
}

func TestFailedWriteAppendsNothing(t *testing.T) {
	for _, c := range []struct {
		name      string
		before    int // records in the segment
		lets      int
		truncates error
	}{
		{"nothing written", 1, 0, nil},
		{"in the header", 1, 10, nil},
		{"in the data", 1, 40, nil},
		{"first of a segment, in its header", 0, 10, nil},
		{"first of a segment, in the data", 0, 70, nil},
		{"not to be taken back", 1, 40, syscall.EIO},
		{"first of a segment, not to be taken back", 0, 10, syscall.EIO},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, _ := open(t, t.TempDir(), roomy)
			disk := breakable(s)
			var want []string
			for i := range c.before {
				mustAppend(t, s, lines(i, 1))
				want = append(want, string(lines(i, 1)))
			}
			disk.writes, disk.lets, disk.truncates = syscall.ENOSPC, c.lets, c.truncates
			before := s.Stats()
			if _, err := s.Append(Named, born, 9, lines(7, 9)); !errors.Is(err, syscall.ENOSPC) {
				t.Fatalf("Append on a full disk: got %v, want %v", err, syscall.ENOSPC)
			}
			after := s.Stats()
			if after.Lines != before.Lines || after.Disk != diskUse(t, s.dir) {
				t.Errorf("stats: got %+v, want %d lines, %d bytes on disk", after, before.Lines, diskUse(t, s.dir))
			}
			disk.writes, disk.truncates = nil, nil
			mustAppend(t, s, lines(8, 1))
			want = append(want, string(lines(8, 1)))

			s, report := reopen(t, s)
			if got, lost := rest(t, s); !slices.Equal(got, want) || lost != 0 {
				t.Errorf("after another Open: got %q and %d lost, want %q", got, lost, want)
			}
			if report.Lost != nil && c.truncates == nil {
				t.Errorf("report: got %+v, want no loss", report)
			}
		})
	}
}

func TestSegmentThatCannotBeMade(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	s.create = func(string) (segmentWriter, error) { return nil, syscall.EROFS }
	if _, err := s.Append(Named, born, 1, lines(0, 1)); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("got %v, want %v", err, syscall.EROFS)
	}
	s.create = createSegment
	mustAppend(t, s, lines(1, 1))
	mustNext(t, s, lines(1, 1))
}

func TestReadOnlyDirectory(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	s, _ := open(t, t.TempDir(), roomy)
	mustAppend(t, s, lines(0, 1))
	s, _ = reopen(t, s)
	if err := os.Chmod(s.dir, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(s.dir, 0o700) })
	if _, err := s.Append(Named, born, 1, lines(1, 1)); !errors.Is(err, os.ErrPermission) {
		t.Errorf("Append: got %v, want %v", err, os.ErrPermission)
	}
	r := mustNext(t, s, lines(0, 1))
	if err := s.Commit(r); !errors.Is(err, os.ErrPermission) {
		t.Errorf("Commit, which would remove the segment: got %v, want %v", err, os.ErrPermission)
	}
	wantEmpty(t, s)
}

func TestCommitWithoutDisk(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	for i := range 3 {
		mustAppend(t, s, lines(i, 1))
	}
	s.cursor.file.Close() // every write fails from here on
	if err := s.Commit(mustNext(t, s, lines(0, 1))); !errors.Is(err, os.ErrClosed) {
		t.Fatalf("got %v, want %v", err, os.ErrClosed)
	}
	if got := s.Stats().Lines; got != 2 {
		t.Errorf("lines: got %d, want 2: it was delivered all the same", got)
	}
	s.cursor.file = nil // it works again
	mustCommit(t, s, mustNext(t, s, lines(1, 1)))
	s, _ = reopen(t, s)
	mustNext(t, s, lines(2, 1))
}

func TestSegmentTakenAway(t *testing.T) {
	s, _ := open(t, t.TempDir(), roomy)
	mustAppend(t, s, lines(0, 3))
	s, _ = reopen(t, s)
	s.closeReader()
	s.peekedAt = position{}
	if err := os.Remove(segmentFiles(t, s.dir)[0]); err != nil {
		t.Fatal(err)
	}
	_, err := s.Next(nil)
	c, ok := errors.AsType[*Corrupt](err)
	if !ok || c.Lines != 3 || !strings.Contains(err.Error(), "3 lines lost") {
		t.Fatalf("got %v, want 3 lines lost", err)
	}
	mustAppend(t, s, lines(1, 1))
	mustNext(t, s, lines(1, 1))
	if got := s.Stats().Disk; got != diskUse(t, s.dir) {
		t.Errorf("disk: got %d, want %d", got, diskUse(t, s.dir))
	}
}

func TestSteadyStateAllocatesNothing(t *testing.T) {
	s, _ := open(t, t.TempDir(), 64<<20)
	data := lines(0, 1000)
	var buf []byte
	step := func() {
		if _, err := s.Append(Named, born, 1000, data); err != nil {
			t.Fatal(err)
		}
		r, err := s.Next(buf[:0])
		if err != nil {
			t.Fatal(err)
		}
		buf = r.Data
		if s.gone+2 > r.number { // leave the last: the segment stays
			return
		}
		r.number--
		if err := s.Commit(r); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		step()
	}
	if got := testing.AllocsPerRun(500, step); got != 0 {
		t.Errorf("allocations a record: got %v, want 0", got)
	}
}

// diskUse returns the sum of the files in dir.
func diskUse(t testing.TB, dir string) (sum int64) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		sum += info.Size()
	}
	return sum
}
