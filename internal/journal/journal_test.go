//go:build linux

package journal

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var aMoment = time.Unix(1700000000, 123).UTC()

// open opens a journal as a process would.
func open(t *testing.T, path string) (*Journal, []*Segment) {
	t.Helper()
	j, left, skipped, err := Open(path)
	if err != nil || skipped != 0 {
		t.Fatalf("Open: %d skipped, %v", skipped, err)
	}
	return j, left
}

// abandon ends the use of a journal as kill -9 does: nothing is done about its
// segments.
func abandon(j *Journal) { j.Close(false) }

func get(t *testing.T, j *Journal, kind Kind) *Segment {
	t.Helper()
	s, err := j.Get(kind, aMoment)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// A successor finds what was put, in its order, with what is done; and nothing
// of what was put back.
func TestSuccessor(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue")
	j, left := open(t, path)
	if len(left) != 0 {
		t.Fatalf("%d segments in a new file", len(left))
	}
	gone := get(t, j, Named)
	gone.Append([]byte("gone 1 1\n"))
	first, second, empty := get(t, j, Raw), get(t, j, Copied), get(t, j, Named)
	first.Append([]byte("a 1 1\n"))
	first.Append([]byte("b 1 1\nc 1 1\n"))
	first.SetDone(6)
	first.SetDone(0) // never goes back
	second.Append([]byte("d 1 1\n"))
	empty.SetDone(0)
	j.Put(gone)
	third := get(t, j, Named) // in the place of the one that is gone
	third.Append([]byte("e 1 1\n"))
	abandon(j)

	j, left = open(t, path)
	for i, want := range []struct {
		kind  Kind
		lines string
		done  int
	}{{Raw, "a 1 1\nb 1 1\nc 1 1\n", 6}, {Copied, "d 1 1\n", 0}, {Named, "e 1 1\n", 0}} {
		s := left[i]
		if s.Kind() != want.kind || string(s.Lines) != want.lines || s.Done() != want.done || !s.Born().Equal(aMoment) {
			t.Errorf("segment %d: kind %d, %q, %d done, born %v", i, s.Kind(), s.Lines, s.Done(), s.Born())
		}
	}
	if len(left) != 3 {
		t.Errorf("%d segments are left, want 3", len(left))
	}
	left[0].Append([]byte("f 1 1\n")) // adopted segments may be filled up
	for _, s := range left[1:] {
		j.Put(s)
	}
	abandon(j)
	if _, left = open(t, path); len(left) != 1 || string(left[0].Lines) != "a 1 1\nb 1 1\nc 1 1\nf 1 1\n" {
		t.Errorf("%d segments are left", len(left))
	}
}

// Segments are used again, with or without their memory.
func TestReuse(t *testing.T) {
	path := filepath.Join(t.TempDir(), "queue")
	j, _ := open(t, path)
	lines := bytes.Repeat([]byte("0123456 8\n"), Room/10)
	for round := range 3 {
		var used []*Segment
		for range 5 {
			s := get(t, j, Named)
			s.Append(lines)
			used = append(used, s)
		}
		for _, s := range used {
			if !bytes.Equal(s.Lines, lines) || s.Left() >= 10 {
				t.Fatalf("round %d: %d bytes of lines", round, len(s.Lines))
			}
			j.Put(s)
		}
		if round == 1 {
			j.Trim(2)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() != 5*SegmentSize {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
	if err := j.Close(true); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("the file is left behind")
	}
}

// Trim gives memory back.
func TestTrim(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "journal-test-")
	if err != nil {
		t.Skip("no tmpfs at /dev/shm:", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	j, _ := open(t, filepath.Join(dir, "queue"))
	var used []*Segment
	for range 8 {
		used = append(used, get(t, j, Named))
	}
	for _, s := range used {
		j.Put(s)
	}
	before := blocks(t, j)
	j.Trim(2)
	if after := blocks(t, j); before != 8*SegmentSize || after != 2*SegmentSize {
		t.Errorf("%d bytes before, %d after", before, after)
	}
	for range 8 {
		get(t, j, Named).Append([]byte("a\n")) // would be SIGBUS without its memory
	}
}

// No other process opens the file, and none of another kind is taken.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "queue")
	j, _ := open(t, path)
	if _, _, _, err := Open(path); err == nil {
		t.Error("opened twice")
	}
	abandon(j)
	for name, make := range map[string]func(path string) error{
		"a directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"a link":      func(path string) error { return os.Symlink(filepath.Join(dir, "queue"), path) },
		"readable": func(path string) error {
			f, err := os.Create(path)
			if err == nil {
				err = f.Chmod(0o644)
			}
			return err
		},
		"of two names": func(path string) error { return os.Link(filepath.Join(dir, "queue"), path) },
	} {
		other := filepath.Join(t.TempDir(), "queue")
		if name == "of two names" {
			other = filepath.Join(dir, "second")
		}
		if err := make(other); err != nil {
			t.Fatal(err)
		}
		if _, _, _, err := Open(other); err == nil {
			t.Errorf("%s was opened", name)
		}
	}
}

// Where the file cannot grow, there are segments all the same, and it is said.
func TestNoRoom(t *testing.T) {
	j, _ := open(t, filepath.Join(t.TempDir(), "queue"))
	s := get(t, j, Named)
	j.file.Close()
	other, err := j.Get(Named, aMoment)
	if err == nil {
		t.Fatal("no error of a file that is closed")
	}
	other.Append([]byte("a 1 1\n"))
	if string(other.Lines) != "a 1 1\n" {
		t.Errorf("got %q", other.Lines)
	}
	j.Put(other)
	j.Put(s)
}

func TestInMemory(t *testing.T) {
	j := InMemory()
	s := get(t, j, Raw)
	s.Append([]byte("a 1 1\n"))
	j.Put(s)
	j.Trim(0)
	if again := get(t, j, Named); again != s || len(again.Lines) != 0 || again.Kind() != Named {
		t.Errorf("got %+v", again)
	}
	if j.Path() != "" || j.Close(true) != nil {
		t.Error("a file?")
	}
}

// Whatever the file holds, no lines come of it that are not whole.
func FuzzOpen(f *testing.F) {
	j, _, _, err := Open(filepath.Join(f.TempDir(), "queue"))
	if err != nil {
		f.Fatal(err)
	}
	for i := range 2 {
		s, _ := j.Get(Named, aMoment)
		s.Append(fmt.Appendf(nil, "a%d 1 1\nb 1 1\n", i))
		s.SetDone(7)
	}
	image, err := os.ReadFile(j.Path())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(image[:100], image[SegmentSize:SegmentSize+100], uint16(0))
	f.Fuzz(func(t *testing.T, first, second []byte, cut uint16) {
		file := make([]byte, 2*SegmentSize)
		copy(file, first[:min(len(first), SegmentSize)])
		copy(file[SegmentSize:], second[:min(len(second), SegmentSize)])
		path := filepath.Join(t.TempDir(), "queue")
		if err := os.WriteFile(path, file[:len(file)-int(cut)], 0o600); err != nil {
			t.Fatal(err)
		}
		j, left, _, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer j.Close(true)
		for _, s := range left {
			if n := len(s.Lines); n == 0 || s.Lines[n-1] != '\n' || s.Done() > n || s.Done() > 0 && s.Lines[s.Done()-1] != '\n' {
				t.Errorf("%d bytes, %d done: %.100q", n, s.Done(), s.Lines)
			}
			j.Put(s)
		}
	})
}

func BenchmarkAppend(b *testing.B) {
	for name, open := range map[string]func() *Journal{
		"memory": InMemory,
		"file": func() *Journal {
			j, _, _, err := Open(filepath.Join(b.TempDir(), "queue"))
			if err != nil {
				b.Fatal(err)
			}
			return j
		},
	} {
		b.Run(name, func(b *testing.B) {
			j := open()
			lines := bytes.Repeat([]byte("0123456 8\n"), 1000)
			b.SetBytes(int64(len(lines)))
			b.ReportAllocs()
			s, _ := j.Get(Named, aMoment)
			for b.Loop() {
				if s.Left() < len(lines) {
					j.Put(s)
					s, _ = j.Get(Named, aMoment)
				}
				s.Append(lines)
			}
		})
	}
}

// blocks returns how many bytes of the file have memory.
func blocks(t *testing.T, j *Journal) int64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(j.file.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Blocks * 512
}
