package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/records"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// filled returns a bench whose store holds lines in many segments of both tiers, and
// the lines.
func filled(t *testing.T) (b *bench, all string) {
	b = newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	for range 12 {
		lines := many("x", 600)
		b.Put(lines, 600, b.now)
		b.spool()
		all += string(lines)
	}
	return b, all
}

// segmentFiles returns the files of all segments, the oldest first.
func (b *bench) segmentFiles() (paths []string) {
	for _, g := range b.named.segments {
		paths = append(paths, g.path())
	}
	return paths
}

// deliver lets all be sent and delivered, and returns it.
func (b *bench) deliver() (got string) {
	l := b.begin("main")
	for range 1000 {
		b.step(b.now)
		sent := l.take()
		l.ack()
		b.pass(maturity)
		l.ack()
		if got += sent; sent == "" && b.books("main").Queued+b.books("main").Spooled == 0 {
			break
		}
	}
	l.end(outlet.Finished)
	return got
}

// wholeLines fails the test unless all lines are ones that were put.
func wholeLines(t testing.TB, got string) {
	t.Helper()
	known := map[string]bool{}
	for ln := range strings.Lines(string(many("x", 600))) {
		known[ln] = true
	}
	for ln := range strings.Lines(got) {
		if !known[ln] {
			t.Fatalf("a wrong line: %q", ln)
		}
	}
}

// Whatever somebody does to a file, while the process runs or while none does: lines
// before the damage are sent, what is lost is said and counted, and no line is wrong.
func TestDamage(t *testing.T) {
	whole := 7200
	for name, damage := range map[string]func(path string) error{
		"cut":       func(path string) error { return os.Truncate(path, 40_000) },
		"empty":     func(path string) error { return os.Truncate(path, 0) },
		"removed":   os.Remove,
		"changed":   func(path string) error { return patch(path, 30_000, []byte("y")) },
		"header":    func(path string) error { return patch(path, 20, []byte("y")) },
		"a fifo":    func(path string) error { return replace(path, func() error { return syscall.Mkfifo(path, 0o600) }) },
		"a link":    func(path string) error { return replace(path, func() error { return os.Symlink("/dev/zero", path) }) },
		"readable":  func(path string) error { return os.Chmod(path, 0o644) },
		"two names": func(path string) error { return os.Link(path, path+".other") },
	} {
		for _, running := range []bool{true, false} {
			for _, which := range []int{0, -1} {
				b, _ := filled(t)
				if !running {
					b.abandon()
				}
				files := b.segmentFiles()
				if which < 0 {
					which = len(files) - 1
				}
				if err := damage(files[which]); err != nil {
					t.Fatal(err)
				}
				if !running {
					b.open()
				}
				got := b.deliver()
				wholeLines(t, got)
				books := b.books("main")
				n, lost := strings.Count(got, "\n"), int(books.Dropped[SpoolFull]+books.Dropped[QueueFull])
				isOpen := running && which > 0 // our own descriptor still leads to what was there
				if n+lost != whole && (running || which == 0) || lost > 2000 || n < whole-2000 {
					t.Errorf("%s, running %v, segment %d: %d lines sent, %d lost, of %d", name, running, which, n, lost, whole)
				}
				if isOpen && (name == "removed" || name == "a fifo") && lost > 0 {
					t.Errorf("%s: %d lines lost, that were in an open file", name, lost)
				}
				if lost > 0 && !strings.Contains(b.log.String(), "lost") && !strings.Contains(b.log.String(), "cannot be read again") {
					t.Errorf("%s: not said: %s", name, &b.log)
				}
				b.abandon()
			}
		}
	}
}

func patch(path string, at int64, with []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(with, at)
	return err
}

func replace(path string, make func() error) error {
	if err := os.Remove(path); err != nil {
		return err
	}
	return make()
}

// What was sent already is known by the state in memory, whatever the disk's is: one is begun, and no
// more, where the disk was full from the start.
func TestUnsoundState(t *testing.T) {
	for _, both := range []bool{false, true} {
		b, _ := filled(t)
		b.abandon()
		dirs := []string{b.disk.Path()}
		if both {
			dirs = append(dirs, b.memory.Path())
		}
		for _, dir := range dirs {
			os.WriteFile(filepath.Join(dir, stateName(0)), nil, 0o600)
			os.WriteFile(filepath.Join(dir, stateName(1)), nil, 0o600)
		}
		b.open()
		if isSaid := strings.Contains(b.log.String(), "is not known"); isSaid != both || b.books("main").Adopted != 7200 {
			t.Errorf("both %v: %+v; %s", both, b.books("main"), &b.log)
		}
		b.abandon()
	}
}

// What a later version has left is not touched: that is an error with what to do.
func TestLaterVersion(t *testing.T) {
	for _, name := range []string{"segment", "state"} {
		b, _ := filled(t)
		files := b.segmentFiles()
		state := filepath.Join(b.memory.Path(), stateName(1-b.states[inMemory].turn))
		b.abandon()
		if name == "segment" {
			header := make([]byte, records.HeaderSize)
			h := b.named.segments[0].Header
			h.Append(header[:0])
			header[8]++
			binary.LittleEndian.PutUint32(header[48:], crc32.Checksum(header[:48], castagnoli))
			patch(files[0], 0, header)
		} else {
			patch(state, int64(len("ppstate ")), fmt.Append(nil, records.Version+1))
		}
		_, err := Open(b.places, b.to, slog.New(slog.DiscardHandler))
		if !errors.Is(err, records.ErrLater) {
			t.Errorf("%s: got %v, want that it is a later version's", name, err)
		}
		b.Store = &Store{}
	}
}

// Where the state directory was removed under us, what is in memory is found by the next process
// all the same.
func TestStateDirectoryIsRemoved(t *testing.T) {
	for _, isKilled := range []bool{false, true} {
		b, _ := filled(t)
		os.RemoveAll(b.places.State)
		before := b.books("main")
		if isKilled {
			b.abandon()
		} else {
			b.CloseInput()
			b.Close()
		}
		b.open()
		if got := b.books("main"); got.Queued != before.Queued || got.Queued == 0 || int(got.Adopted) != before.Queued+before.Spooled {
			t.Errorf("killed %v: before %+v, after %+v", isKilled, before, got)
		}
	}
}

// Killed at any change of a file while held lines get their names, a process leaves all of them, and
// the next one misses none.
func TestKilledWhileNaming(t *testing.T) {
	const batches = 12
	name := func(b *bench) (killed bool) {
		defer func() { killed = recover() != nil }()
		for h, ok := b.Held.Take(); ok; h, ok = b.Held.Take() {
			b.Held.Finish(func(put func([]byte, int, time.Time)) { put(bytes.Clone(h.Data), h.Lines(), h.Born) })
		}
		return false
	}
	for killAt, killed := 1, true; killed; killAt++ {
		b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
		for range batches {
			b.PutHeld(many("x", 600), 600, b.now)
		}
		b.kill() // what is found is not kept for other lines
		b.faults.fault = func(op, path string, size int) (int, error) {
			if killAt--; killAt == 0 {
				panic(errKilled)
			}
			return size, nil
		}
		at := killAt
		killed = name(b)
		killAt = at
		b.kill()
		if got := b.books("main"); got.Queued < batches*600 || got.Dropped != [NumReasons]uint64{} {
			t.Errorf("killed at change %d: %+v", killAt, got)
		}
		b.abandon()
	}
}

// A power failure takes memory, and what on disk was not synced: a second of what was
// spooled at most, and it is counted.
func TestPowerFailure(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	put := 0
	for i := range 50 {
		b.putMany("x", 600)
		if i%10 == 0 {
			b.step(b.now)
		}
		put += 600
	}
	unsynced, synced := 0, 0
	for _, g := range b.named.segments {
		if slices.Contains(b.unsynced, g) {
			unsynced += g.span().Lines()
			os.Truncate(g.path(), 0)
		} else if g.tier == onDisk {
			synced += g.span().Lines()
		}
	}
	waiting := b.books("main")
	b.abandon()
	os.RemoveAll(b.places.Memory[0])
	b.open()
	got := b.books("main")
	if unsynced == 0 || unsynced > 10*600+1310 || got.Spooled != synced || got.Queued != 0 {
		t.Errorf("%d lines synced, %d not, %+v", synced, unsynced, got)
	}
	if n := uint64(got.Spooled) + got.Dropped[SpoolFull]; got.Adopted != n || int(n) > put || waiting.Queued+waiting.Spooled != put {
		t.Errorf("before %+v, after %+v", waiting, got)
	}
	wholeLines(t, b.deliver())
}

// Where the directory in memory was removed, and the process is killed, what has gone to disk since
// the state there was written is found, and what waited when it was is counted.
func TestMemoryRemoved(t *testing.T) {
	for _, isSynced := range []bool{false, true} {
		b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
		b.putMany("x", 30_000)
		b.step(b.now)
		os.RemoveAll(b.memory.Path())
		b.putMany("y", 30_000)
		lost := 0
		before := b.books("main")
		if isSynced {
			b.step(b.now)
			lost = before.Queued
		}
		b.kill()
		if got := b.books("main"); got.Spooled != before.Spooled || int(got.Dropped[SpoolFull]) != lost || int(got.Adopted) != before.Spooled+lost {
			t.Errorf("synced %t: before %+v, after %+v; %s", isSynced, before, got, &b.log)
		}
	}
}

// Where somebody removes the file that names the directory in memory, that is found.
func TestPointerRemoved(t *testing.T) {
	b := newBench(t)
	b.putMany("x", 1000)
	os.Remove(filepath.Join(b.places.State, "store", "memory"))
	b.kill()
	if got := b.books("main"); got.Queued != 1000 {
		t.Errorf("%+v; %s", got, &b.log)
	}
}

// Where a segment is needed no more while it is being moved, what its file is used for next is not
// what comes to disk: the next process would take that for the newest.
func TestReusedWhileMoved(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	l := b.begin("main")
	b.pass(young)
	b.putThousands(8)
	b.pressure = 0
	b.faults.fault = func(op, path string, size int) (int, error) {
		switch {
		case op == "create" && strings.HasSuffix(path, newSuffix):
			b.pressure = 1 << 40
			l.takeAll()
			for len(b.spare) > 0 {
				b.Put(many("y", 500), 500, b.now)
			}
		case op == "rename":
			b.Put(many("z", 100), 100, b.now)
		}
		return size, nil
	}
	b.spooler.turn(b.now)
	b.faults.fault = nil
	b.putLines("a 1 1")
	before := b.books("main")
	b.kill()
	if after := b.books("main"); before.Queued < 500 || int(after.Adopted) != before.Queued || after.Dropped != [NumReasons]uint64{} {
		t.Errorf("before %+v, after %+v; %s", before, after, &b.log)
	}
}

// What was delivered before the power failed is not taken for lost, whatever the disk knew by then:
// neither what was sent from memory, nor a file that had gone.
func TestPowerFailureAfterDelivery(t *testing.T) {
	for _, tt := range []struct {
		name string
		run  func(b *bench, l *link)
	}{
		{"the disk was needed long ago", func(b *bench, l *link) {
			l.takeAll()
			b.putLines("a 1 1")
			l.take()
			b.step(b.now)
			l.deliver()
		}},
		{"another needs the disk", func(b *bench, l *link) {
			b.SetDestinations([]Destination{b.to[0], {Name: "down", Queue: 1 << 20, Spool: 1 << 30}})
			b.putMany("x", 30_000)
			l.takeAll()
			b.putLines("a 1 1")
			l.take()
			b.step(b.now)
			l.deliver()
		}},
		{"a file has gone", func(b *bench, l *link) {
			b.step(b.now)
			b.faults.fault = func(op, path string, size int) (int, error) {
				if op == "remove" && strings.HasPrefix(path, b.places.State) && strings.HasSuffix(path, segmentSuffix) {
					os.Remove(path)
					panic(errKilled)
				}
				return size, nil
			}
			defer func() { recover() }()
			l.takeAll()
			b.step(b.now)
		}},
	} {
		b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
		b.putMany("x", 30_000)
		b.step(b.now)
		l := b.begin("main")
		b.pass(young)
		tt.run(b, l)
		b.abandon()
		os.RemoveAll(b.places.Memory[0])
		os.Mkdir(b.places.Memory[0], 0o700)
		b.log.Reset()
		b.open()
		if got := b.books("main"); got.Dropped != [NumReasons]uint64{} || strings.Contains(b.log.String(), "lost\" destination=main") {
			t.Errorf("%s: %+v; %s", tt.name, got, &b.log)
		}
		b.abandon()
	}
}

// deliver lets what was sent be delivered.
func (l *link) deliver() {
	l.ack()
	l.pass(maturity)
	l.ack()
}

// takeAll lets all that waits be delivered.
func (l *link) takeAll() {
	for l.bench.books("main").Queued+l.bench.books("main").Spooled > 0 {
		l.take()
		l.deliver()
	}
}

// No file can be opened: what is open takes the lines, up to the bound of memory; what is
// beyond that is dropped, which is said once.
func TestNoDescriptors(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 4 << 20, Spool: 1 << 30})
	b.Put(many("x", 1000), 1000, b.now)
	short := true
	b.faults.fault = func(op, path string, size int) (int, error) {
		if short && op == "create" {
			return 0, syscall.EMFILE
		}
		return size, nil
	}
	b.putThousands(29)
	if got := b.books("main"); got.Queued != 30_000 {
		t.Errorf("got %+v; %s", got, &b.log)
	}
	for range 30 {
		b.Put(many("x", 1000), 1000, b.now)
	}
	if got := b.books("main"); got.Dropped[QueueFull] == 0 || got.Queued+int(got.Dropped[QueueFull]) != 60_000 || strings.Count(b.log.String(), "lines dropped") != 1 {
		t.Errorf("got %+v; %s", got, &b.log)
	}
	short = false
	l := b.begin("main")
	for range 10 {
		b.Put(many("late", 1000), 1000, b.now)
		b.pass(time.Second)
	}
	if got, want := strings.Count(l.take(), "\n"), 70_000-int(b.books("main").Dropped[QueueFull]); got != want {
		t.Errorf("%d lines are sent, want %d", got, want)
	}
}

// A spool of more files than may be open at once is found whole.
func TestMoreFilesThanDescriptors(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	b.putMany("x", 150_000)
	b.abandon()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 64
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	b.open()
	if got := b.books("main"); got.Queued+got.Spooled != 150_000 || len(b.named.segments) < 64 {
		t.Errorf("%d segments, %+v; %.300s", len(b.named.segments), got, &b.log)
	}
}

// What waits in memory may be in more files than may be open at once: it goes to disk all the same.
func TestMoreInMemoryThanDescriptors(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 8 << 20, Spool: 1 << 30})
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	low := limit
	low.Cur = 40
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &low); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit)
	for range 160 {
		b.putThousands(1)
		b.pass(retryAfter)
	}
	if got := b.books("main"); got.Queued+got.Spooled != 160_000 || got.Spooled == 0 || len(b.named.tier(inMemory)) < 30 {
		t.Errorf("%+v; %s", got, &b.log)
	}
	allWhole(t, b.deliver())
}

// The disk does not work: lines stay in memory up to its bound, it is said once, and
// tried again every second.
func TestDiskOutOfOrder(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 4 << 20, Spool: 1 << 30})
	broken := true
	b.faults.fault = func(op, path string, size int) (int, error) {
		if broken && strings.HasPrefix(path, b.places.State) && (op == "create" || op == "write") {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	b.putThousands(30)
	if got := b.books("main"); got.Queued != 30_000 || strings.Count(b.log.String(), "spool out of order") != 1 {
		t.Errorf("got %+v; %s", got, &b.log)
	}
	if again := b.step(b.now.Add(time.Second / 2)); again != time.Second/2 {
		t.Errorf("tried again after %v more", again)
	}
	for range 30 {
		b.Put(many("x", 1000), 1000, b.now)
	}
	if got := b.books("main"); got.Dropped[QueueFull] == 0 || got.Queued+int(got.Dropped[QueueFull]) != 60_000 {
		t.Errorf("got %+v", got)
	}
	broken = false
	b.pass(time.Second)
	b.step(b.now)
	b.pass(time.Second)
	b.step(b.now)
	if got := b.books("main"); got.Spooled == 0 || !strings.Contains(b.log.String(), "spool in order again") {
		t.Errorf("got %+v; %s", got, &b.log)
	}
}

// While a disk takes long to sync, lines go there all the same.
func TestSlowSync(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
		var waiting atomic.Int64
		end := make(chan struct{})
		b.faults.fault = func(op, path string, size int) (int, error) {
			if op == "sync" {
				waiting.Add(1)
				<-end
			}
			return size, nil
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { b.Store.Run(ctx) })
		for range 100 {
			b.Put(many("x", 1000), 1000, time.Now())
			sidebyside.Pass(syncInterval / 10) // of the bubble's clock
		}
		if got := b.books("main"); got.Queued+got.Spooled != 100_000 || waiting.Load() != 1 {
			t.Errorf("got %+v, %d syncs", got, waiting.Load())
		}
		close(end)
		cancel()
		running.Wait()
	})
}

// A disk that is full of what is kept only to be sent again has room for lines that wait.
func TestDiskFullOfTheDelivered(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 4 << 20, Spool: 1 << 30})
	b.faults.fault = func(op, path string, size int) (int, error) {
		if op == "write" && strings.HasPrefix(path, b.places.State) && b.used[onDisk]+int64(size) > 8<<20 {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	l := b.begin("main")
	for range 95 { // 9.5 MB, which a young session may yet lose
		b.putThousands(1)
		l.take()
		l.ack()
	}
	b.pass(maturity)
	l.ack()
	if got := b.books("main"); got.Queued+got.Spooled > 0 || b.used[onDisk] < 4<<20 {
		t.Fatalf("%d bytes on disk; %+v", b.used[onDisk], got)
	}
	for range 80 { // 8 MB, which it does not take: twice the queue
		b.putThousands(1)
		b.pass(10 * time.Millisecond)
	}
	if got := b.books("main"); got.Queued+got.Spooled != 80_000 {
		t.Errorf("got %+v; %s", got, &b.log)
	}
}

// Whatever is in a file, no line comes of it that was not put, and what is missing is
// counted.
func FuzzSegment(f *testing.F) {
	f.Add(uint8(0), uint32(100), uint32(0), []byte("x"))
	f.Add(uint8(1), uint32(60), uint32(50_000), []byte{})
	f.Add(uint8(7), uint32(8), uint32(0), []byte{2, 0, 0, 0})
	f.Add(uint8(3), uint32(0), uint32(1), bytes.Repeat([]byte{0}, 100))
	f.Fuzz(func(t *testing.T, which uint8, at, cut uint32, with []byte) {
		b, all := filled(t)
		b.abandon()
		files := b.segmentFiles()
		path := files[int(which)%len(files)]
		image, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		at %= uint32(len(image))
		copy(image[at:], with)
		if cut > 0 {
			image = image[:cut%uint32(len(image))]
		}
		os.WriteFile(path, image, 0o600)
		if which&0x40 != 0 { // and once more
			os.WriteFile(filepath.Join(filepath.Dir(path), "named-00000000000000ff.log"), image, 0o600)
		}
		if which&0x80 != 0 { // and in another's place
			other := files[int(which/2)%len(files)]
			os.WriteFile(other, image, 0o600)
		}
		b.open()
		got := b.deliver()
		wholeLines(t, got)
		books := b.books("main")
		if n := uint64(strings.Count(got, "\n")); books.Adopted != n+books.Dropped[SpoolFull]+books.Dropped[QueueFull] {
			t.Errorf("%d lines sent, %d before: %+v", n, strings.Count(all, "\n"), books)
		}
	})
}

// Whatever is in the file of a state, no other comes of it than was written.
func FuzzState(f *testing.F) {
	span := records.Span{From: records.Place{At: 10, Line: 1}, To: records.Place{At: 90, Line: 5}}
	image := (&state{ID: 7, Generation: 1, Named: span.To, Places: []placeOf{{Name: "main", Todo: records.Spans{span}}}}).encode()
	f.Add(uint16(0), []byte("x"))
	f.Add(uint16(len(image)-9), []byte("1}"))
	f.Fuzz(func(t *testing.T, at uint16, with []byte) {
		b := bytes.Clone(image)
		copy(b[int(at)%len(b):], with)
		if st, err := decodeState(b); err == nil && !bytes.Equal(st.encode(), image) {
			t.Errorf("%q is %+v", b, st)
		}
	})
}

// Where tmpfs has less room than may wait in memory, lines go to disk before: nothing is lost when
// the process is killed.
func TestTmpfsIsSmall(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: roomy, Spool: 1 << 30})
	b.faults.fault = func(op, path string, size int) (int, error) {
		if (op == "write" && b.used[inMemory] > 4<<20 || op == "free") && strings.HasPrefix(path, b.places.Memory[0]) {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	b.putThousands(200)
	b.kill()
	if got := b.books("main"); got.Queued+got.Spooled != 200_000 || got.Dropped != [NumReasons]uint64{} {
		t.Errorf("got %+v; %s", got, &b.log)
	}
}

// Where tmpfs has been full for a moment, as much waits in memory afterwards as before.
func TestTmpfsHasRoomAgain(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: roomy, Spool: 1 << 30})
	isFull := true
	b.faults.fault = func(op, path string, size int) (int, error) {
		if isFull && (op == "write" && b.used[inMemory] > 4<<20 || op == "free") && strings.HasPrefix(path, b.places.Memory[0]) {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	b.putThousands(100)
	isFull = false
	b.putThousands(700)
	if got := b.books("main"); got.QueueBytes < roomy/2-2*b.segmentSize || strings.Count(b.log.String(), "no room") != 1 {
		t.Errorf("got %+v; %s", got, &b.log)
	}
}

// A disk that cannot be read for a while costs nothing; what never can be is given up and counted.
func TestUnreadableForAWhile(t *testing.T) {
	unreadable, err := os.Open("/proc/self/mem") // at the beginning is an EIO
	if err != nil {
		t.Skip(err)
	}
	for _, isForever := range []bool{false, true} {
		b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
		b.putMany("x", 30_000)
		first := b.named.segments[0]
		first.file = unreadable
		l := b.begin("main")
		for range maxFailures - 1 {
			b.step(b.now)
			b.pass(retryAfter)
		}
		if got := b.books("main"); got.Dropped != [NumReasons]uint64{} || !strings.Contains(b.log.String(), "out of order") {
			t.Errorf("after a while: %+v; %s", got, &b.log)
		}
		lost := 0
		if isForever {
			lost = first.span().Lines()
		} else {
			first.file = nil
		}
		l.end(outlet.Broken)
		sent := strings.Count(b.deliver(), "\n")
		if got := b.books("main"); sent != 30_000-lost || int(got.Dropped[SpoolFull]) != lost {
			t.Errorf("%d lines are sent, %d lost: %+v; %s", sent, lost, got, &b.log)
		}
	}
}

// Where tmpfs and the disk are full, what a stop drops is counted once: the next process knows it.
func TestStopWhileFull(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 4 << 20, Spool: 1 << 30})
	b.faults.fault = func(op, path string, size int) (int, error) {
		isInMemory, isState := strings.HasPrefix(path, b.places.Memory[0]), strings.Contains(path, "state-")
		if b.used[inMemory] > 2<<20 && (op == "create" && isInMemory || op == "write" && !isState && path != "memory") {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	b.putThousands(30)
	b.CloseInput()
	b.Close()
	before := b.books("main")
	b.open()
	after := b.books("main")
	if left := before.Queued + before.Spooled; before.Dropped[Shutdown] == 0 || int(after.Adopted) != left || after.Dropped != [NumReasons]uint64{} {
		t.Errorf("before %+v, after %+v; %s", before, after, &b.log)
	}
}

// Where the disk takes no state at a stop, what the next process finds is that of memory.
func TestStopWithoutState(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	b.putMany("x", 30_000)
	b.step(b.now)
	l := b.begin("main")
	b.pass(young)
	b.faults.fault = func(op, path string, size int) (int, error) {
		if op == "write" && strings.Contains(path, "state-") && strings.HasPrefix(path, b.places.State) {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	l.takeAll()
	l.end(outlet.Finished)
	b.CloseInput()
	b.Close()
	before := b.books("main")
	b.open()
	after := b.books("main")
	if before.Queued+before.Spooled != 0 || after.Adopted != 0 {
		t.Errorf("before %+v, after %+v; %s", before, after, &b.log)
	}
}

// What is in memory without a name when the process is killed is counted by the next.
func TestNamelessIsCounted(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 4 << 20, Spool: 1 << 30})
	b.putMany("x", 1000)
	b.faults.fault = func(op, path string, size int) (int, error) {
		if (op == "create" || op == "write" && size > records.HeaderSize && !strings.Contains(path, "state-")) && path != "memory" {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	for range 10 {
		b.Put(many("y", 100), 100, b.now)
	}
	before := b.books("main")
	b.kill()
	after := b.books("main")
	if int(after.Adopted) != before.Queued+before.Spooled {
		t.Errorf("before %+v, after %+v; %s", before, after, &b.log)
	}
}

// Who puts lines is told how much waits for the disk, whatever they wait for.
func TestWaitsForTheDisk(t *testing.T) {
	b := newBench(t, Destination{Name: "main", Queue: 1 << 20, Spool: 1 << 30})
	for name, put := range map[string]func([]byte, int, time.Time) int64{"named": b.Put, "held": b.PutHeld} {
		waiting := int64(0)
		for range 15 {
			waiting = put(many("x", 1000), 1000, b.now)
		}
		if waiting < 1<<20 {
			t.Errorf("%s: %d bytes wait", name, waiting)
		}
		if b.spool(); b.Put([]byte("a 1 1\n"), 1, b.now) != 0 {
			t.Errorf("%s: some wait still", name)
		}
	}
}

// Where tmpfs has room for a file's header, and for no record, what is put goes to a file
// without a name, and that is said.
func TestNoRoomForARecord(t *testing.T) {
	b := newBench(t)
	b.faults.fault = func(op, path string, size int) (int, error) {
		if op == "write" && size > records.HeaderSize && strings.HasPrefix(path, b.places.Memory[0]) {
			return 0, syscall.ENOSPC
		}
		return size, nil
	}
	b.putLines("a 1 1"+strings.Repeat(" ", 100), "b 1 1")
	if got := b.begin("main").take(); strings.Count(got, "\n") != 2 || strings.Count(b.log.String(), "no room") != 1 {
		t.Errorf("%q is sent; %s", got, &b.log)
	}
}

// Where a file can be begun, but takes no record, or few, each batch that is dropped is not said
// anew.
func TestNoRoomIsSaidOnce(t *testing.T) {
	b := newBench(t)
	b.faults.fault = func(op, path string, size int) (int, error) {
		if op == "write" && size > 1000 || op == "create" && path == "memory" {
			return 0, syscall.EFBIG
		}
		return size, nil
	}
	for range 20 {
		b.putLines("a 1 1")
		b.putLines("b 1 1" + strings.Repeat(" ", 1000))
	}
	if n := strings.Count(b.log.String(), "no memory for them"); n != 1 || b.books("main").Dropped[QueueFull] != 20 {
		t.Errorf("said %d times; %s", n, &b.log)
	}
}
