package aggregate

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// logPath returns the path of the log that a writes.
func logPath(a *Aggregator) string {
	l := logFile{a.journal.dir, linesKind, a.journal.generation}
	if a.journal.base > 0 {
		l.kind = baseKind
	}
	return l.path()
}

// A graphite is what Graphite has stored: the last value of each name and second. No
// second may get two values.
type graphite struct {
	t      *testing.T
	stored map[string]float64
}

func (g *graphite) take(points []byte) {
	g.t.Helper()
	for line := range strings.Lines(string(points)) {
		f := strings.Fields(line)
		v, err := strconv.ParseFloat(f[1], 64)
		if err != nil {
			g.t.Fatal(err)
		}
		key := f[0] + "@" + f[2]
		if was, is := g.stored[key]; is && was != v {
			g.t.Fatalf("%q is %v after it was %v", key, v, was)
		}
		g.stored[key] = v
	}
}

// sum returns the sum over all points whose name and second have a part.
func (g *graphite) sum(part string) (sum float64) {
	for key, v := range g.stored {
		if strings.Contains(key, part) {
			sum += v
		}
	}
	return sum
}

// schedules is how often what happens at random is tried.
var schedules = flag.Int("aggregate.schedules", 5, "how many schedules TestKilled runs, and ten times as many damages TestDamagedLines")

// A process is killed at any step, is stopped, and started again; the clock is set; names
// come and go; the lines become so long that a base is written in between. Each line
// counts once, and all points are those of one that lives on.
func TestKilled(t *testing.T) {
	defer func(step int) { baseStep = step }(baseStep)
	baseStep = 2
	for seed := range uint64(*schedules) {
		run(t, seed)
	}
}

func valueOf(a *Aggregator, name string, k kind) float64 {
	return a.table.find([]byte(name), k, hashOf([]byte(name))).cur
}

func run(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	dir := t.TempDir()
	dirs := []string{filepath.Join(dir, "mem[o]ry"), filepath.Join(dir, "st[a]te")}
	g, twins := &graphite{t: t, stored: map[string]float64{}}, &graphite{t: t, stored: map[string]float64{}}
	cfg := DefaultConfig()
	cfg.Expire = 0
	now := at(0)
	a, twin := open(t, cfg, now, dirs...), open(t, cfg, now)
	sent := map[string]int{}
	gauge, tenure := 0, 0
	flush := func(all bool) {
		for a.IsFlushing() && (all || random.IntN(3) > 0) {
			more := a.Take(1 + random.IntN(3))
			g.take(a.Points(nil))
			if !more && (all || random.IntN(3) > 0) {
				a.Flushed()
			}
		}
	}
	flushTwin := func() {
		for twin.IsFlushing() {
			more := twin.Take(10)
			if twins.take(twin.Points(nil)); !more {
				twin.Flushed()
			}
		}
	}
	seal := func() {
		a.Seal(now)
		twin.Seal(now)
		flushTwin()
	}
	start := func() { // maybe with another configuration
		cfg.Layout, cfg.To = []Layout{Plain, StatsD}[random.IntN(2)], []string{"", "servers.{name}"}[random.IntN(2)]
		twin.configure(cfg)
		twin.label()
		a = open(t, cfg, now, dirs...)
		a.SetNamed(twin.named, now)
		twin.SetNamed(twin.named, now)
		if twin.open.Tenure == "" {
			twin.move(now.Unix())
		}
	}
	for range 400 {
		now = now.Add(time.Duration(random.IntN(1500)) * time.Millisecond)
		switch random.IntN(40) {
		case 0:
			now = now.Add(time.Duration(random.IntN(60)-20) * time.Second)
		case 1, 2, 3: // killed
			start()
		case 4: // stopped
			flush(true)
			if a.HasBegun(now) {
				seal()
			} else if a.open.Lines > 0 {
				twin.open.Tenure = ""
			}
			flush(true)
			if err := a.Close(dirs[1]); err != nil {
				t.Fatal(err)
			}
			start()
		case 5:
			flush(true)
			tenure++
			a.Hold(now, fmt.Sprint(tenure))
			twin.Hold(now, fmt.Sprint(tenure))
			flushTwin()
		case 6:
			a.SetNamed(false, now)
			twin.SetNamed(false, now)
		case 7, 8:
			if !a.IsFlushing() {
				a.beginBase()
			}
		case 9: // reloaded
			flush(true)
			if a.HasBegun(now) {
				seal()
			}
			flush(true)
			cfg.Interval = time.Duration(5+random.IntN(20)) * time.Second
			a.Reconfigure(cfg, now)
			twin.Reconfigure(cfg, now)
		}
		if a.IsOver(now) {
			flush(true)
			seal()
		}
		flush(false)
		for range random.IntN(4) {
			name := fmt.Sprintf("c%d", random.IntN(5))
			put(a, name+":1|c")
			put(twin, name+":1|c")
			sent[name]++
		}
		more := []string{fmt.Sprintf("t:%d|ms|@0.3", random.IntN(9)), fmt.Sprintf("s:%d|s", random.IntN(9)), fmt.Sprintf("h:%d|g", random.IntN(9)), "g:+1|g", "k:1|c|#b:1,a:2"}
		put(a, more...)
		put(twin, more...)
		gauge++
		if got := valueOf(a, "g", gaugeKind); got != float64(gauge) {
			t.Fatalf("seed %d: the gauge is %v, want %d", seed, got, gauge)
		}
	}
	flush(true)
	seal()
	flush(true)
	if !maps.Equal(g.stored, twins.stored) {
		t.Fatalf("seed %d: what one that lives on stores is not the same", seed)
	}
	for name, n := range sent {
		if got := g.sum("\x01." + name + ".count@"); got != float64(n) {
			t.Fatalf("seed %d: %s is %v, want %d", seed, name, got, n)
		}
	}
	if a.Lines() != 0 {
		t.Fatalf("seed %d: %d lines are left", seed, a.Lines())
	}
}

// A slot without a tenure that goes on in a later one at a start stays there, even if that
// process is killed, too, while an earlier slot was still being flushed at its start.
func TestMoved(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	put(a, "c:1|c")
	a.Seal(at(14))
	put(a, "c:10|c")
	a = open(t, tenth(), at(25), dir)
	points(a)
	a.Seal(at(34))
	a.Take(10)
	want := string(a.Points(nil))
	a = open(t, tenth(), at(35), dir)
	a.Take(10)
	if got := string(a.Points(nil)); got != want {
		t.Errorf("got %q, behind %q", got, want)
	}
}

// What a killed process counted in the first seconds of its tenure is of no slot of it,
// if none began before the end: the name may have been another's since. Else it is.
func TestKilledBeforeSlot(t *testing.T) {
	for killed, want := range map[float64]string{8: "N.c.count 1 @40", 11: "N.c.count 1 @10"} {
		dir := t.TempDir()
		a := open(t, tenth(), at(0), dir)
		a.Hold(at(2), "first")
		put(a, "c:1|c")
		if err := os.Chtimes(logPath(a), at(killed), at(killed)); err != nil {
			t.Fatal(err)
		}
		a = open(t, tenth(), at(32), dir)
		a.Hold(at(35), "second")
		got := []string{}
		if a.IsFlushing() {
			got = points(a)
		}
		a.Seal(at(50))
		if got = append(got, points(a)...); !slices.Contains(got, want) {
			t.Errorf("killed at %v: got %q, want %q", killed, got, want)
		}
	}
}

// So it is if the next process is killed, too, before the flush goes on that was under way.
func TestKilledTwiceBeforeSlot(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	a.Hold(at(2), "first")
	put(a, "c:1|c")
	a.Seal(at(15)) // a stop: the next slot has not begun
	put(a, "c:10|c")
	if err := os.Chtimes(logPath(a), at(16), at(16)); err != nil {
		t.Fatal(err)
	}
	a = open(t, tenth(), at(25), dir)
	put(a, "c:100|c")
	a = open(t, tenth(), at(35), dir)
	got := points(a)
	a.Hold(at(36), "second")
	if a.IsFlushing() {
		got = append(got, points(a)...)
	}
	a.Seal(at(50))
	got = append(got, points(a)...)
	equal(t, got, []string{"N.c.count 1 @10", "N.c.rate 0.1 @10", "N.c.count 110 @40", "N.c.rate 11 @40"})
}

// A series that came while a slot was being flushed is there behind the base of that flush,
// though the process was killed in it.
func TestNewInFlush(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	a.SetNamed(true, at(0))
	put(a, "c:1|c")
	a.Seal(at(10))
	put(a, "new:1|c")
	a = open(t, tenth(), at(11), dir)
	put(a, "new:2|c")
	points(a)
	a = open(t, tenth(), at(12), dir)
	if got := valueOf(a, "new", counterKind); got != 3 {
		t.Errorf("got %v, want 3", got)
	}
}

// A line that was cut by the end of the process does not count, and is no part of what
// comes behind it.
func TestTornLine(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	put(a, "a:1|c")
	a.journal.pending = append(a.journal.pending, numbered, '1', ':', '1')
	a.journal.flush()
	a = open(t, tenth(), at(1), dir)
	put(a, "a:3|c")
	a = open(t, tenth(), at(2), dir)
	if got := valueOf(a, "a", counterKind); got != 4 {
		t.Errorf("the counter is %v, want 4", got)
	}
}

// What a stop leaves goes on.
func TestLeft(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	put(a, "c:1|c", "g:5|g")
	if err := a.Close(dir); err != nil {
		t.Fatal(err)
	}
	a = open(t, tenth(), at(1), dir)
	put(a, "c:2|c", "g:+1|g")
	if c, g := valueOf(a, "c", counterKind), valueOf(a, "g", gaugeKind); c != 3 || g != 6 {
		t.Errorf("the counter is %v, want 3, and the gauge %v, want 6", c, g)
	}
}

// Damage is said, and costs no more than what is damaged.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	put(a, "a:1|c")
	a.checkpoint()
	path := logPath(a)
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text[len(text)/2] ^= 1
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	a, err = Open(tenth(), []string{dir}, at(1))
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Trouble(); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got %v", err)
	}
	put(a, "a:1|c")
	if got := open(t, tenth(), at(2), dir).Lines(); got != 1 {
		t.Errorf("%d lines are found, want 1", got)
	}
}

// Whatever stands in the place of lines, the process starts, and counts what it can read.
func TestDamagedLines(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 10 * *schedules {
		dir := t.TempDir()
		a := open(t, tenth(), at(0), dir)
		put(a, "a:1|c", "a:2|c", "b:3|ms", "c:x|s", "g:4|g", "g:+1|g", "b:7|ms|@0.5", "a:1|c")
		path := logPath(a)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		switch r.IntN(4) {
		case 0:
			text = slices.Insert(text, r.IntN(len(text)+1), []byte("\n\n")...)
		case 1:
			text = slices.Delete(text, r.IntN(len(text)), len(text))
			text = append(text, '\n')
		case 2:
			for range 1 + r.IntN(9) {
				text[r.IntN(len(text))] = byte(r.IntN(256))
			}
		case 3:
			text = append(append(text, note), "{\"Based\":-1,\"Slot\":{\"Seq\":-5,\"Start\":-1}}\n"...)
		}
		if err := os.WriteFile(path, text, 0o600); err != nil {
			t.Fatal(err)
		}
		func() {
			defer func() {
				if bad := recover(); bad != nil {
					t.Errorf("%d: %v in %q", i, bad, text)
				}
			}()
			again, err := Open(tenth(), []string{dir}, at(1))
			if err != nil {
				t.Fatal(err)
			}
			put(again, "a:1|c")
			again.Seal(at(10))
			points(again)
		}()
	}
}

// What a link in the place of the directory leads to is neither read nor removed.
func TestLinkedDirectory(t *testing.T) {
	dir, elsewhere := filepath.Join(t.TempDir(), "aggregate"), t.TempDir()
	if err := os.Symlink(elsewhere, dir); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{baseKind, linesKind} {
		if err := os.WriteFile(logFile{elsewhere, kind, 1}.path(), []byte("another's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, dirs := range [][]string{{dir}, {filepath.Join(t.TempDir(), "aggregate"), dir}} {
		a, err := Open(DefaultConfig(), dirs, at(0))
		if err != nil {
			t.Fatal(err)
		}
		if dirs[0] == dir && a.Trouble() == nil {
			t.Error("nothing is said of it")
		}
		a.Close("")
	}
	if entries, err := os.ReadDir(elsewhere); len(entries) != 2 || err != nil {
		t.Errorf("%d files are left of 2, %v", len(entries), err)
	}
}

// A FIFO in the place of the directory holds up no stop.
func TestFIFO(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "aggregate")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	a := open(t, DefaultConfig(), at(0), filepath.Join(t.TempDir(), "aggregate"))
	if err := a.Close(fifo); err != nil {
		t.Errorf("it is not kept elsewhere: %v", err)
	}
}

// Files that cannot be written cost nothing while the process lives; the next base that
// can be written makes good for them.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	a.SetNamed(true, at(0))
	put(a, "c:1|c", "g:5|g")
	full, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	a.journal.file = full
	put(a, "c:2|c")
	a.Seal(at(10))
	a.journal.breaks(syscall.ENOSPC)
	if a.Trouble() == nil {
		t.Error("no trouble is told")
	}
	put(a, "c:10|c")
	equal(t, points(a), []string{"N.c.count 3 @0", "N.c.rate 0.3 @0", "N.g 5 @0"})
	put(a, "g:+1|g") // and some of the base
	if err := a.Trouble(); err != nil {
		t.Errorf("still in trouble: %v", err)
	}
	a = open(t, tenth(), at(12), dir)
	a.SetNamed(true, at(12))
	a.Seal(at(20))
	equal(t, points(a), []string{"N.c.count 10 @10", "N.c.rate 1 @10", "N.g 6 @10"})
}

// Where there is no room for a base at the start, what was found is found again.
func TestNoRoomAtTheStart(t *testing.T) {
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	put(a, "c:1|c", "c:1|c")
	nowhere := filepath.Join(t.TempDir(), "link") // which no log can be in
	if err := os.Symlink(t.TempDir(), nowhere); err != nil {
		t.Fatal(err)
	}
	a, err := Open(tenth(), []string{nowhere, dir}, at(0))
	if err != nil || a.Trouble() == nil {
		t.Fatalf("%v, and no trouble", err)
	}
	put(a, "c:1|c")
	if a = open(t, tenth(), at(0), dir); a.Lines() != 2 || a.Lost() != 1 {
		t.Errorf("%d lines found, %d lost", a.Lines(), a.Lost())
	}
}

// Where no log can be begun (here, for want of descriptors, of inodes …), points leave, and what is
// counted is kept from when one can be.
func TestNoLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), dir); err != nil {
		t.Fatal(err)
	}
	a, err := Open(tenth(), []string{dir}, at(0))
	if err != nil || a.Trouble() == nil {
		t.Fatalf("%v, and no trouble", err)
	}
	a.SetNamed(true, at(0))
	put(a, "a:1|c")
	a.Seal(at(10))
	put(a, "a:1|c")
	if got := points(a); !slices.Contains(got, "N.a.count 1 @0") {
		t.Errorf("got %q", got)
	}
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	a.Seal(at(20))
	points(a)
	put(a, "a:1|c")
	if err := a.Trouble(); err != nil {
		t.Errorf("there is room again: %v", err)
	}
	if a = open(t, tenth(), at(21), dir); a.Lines() != 1 || a.Lost() != 0 {
		t.Errorf("%d lines found, %d lost", a.Lines(), a.Lost())
	}
}

// A directory that somebody has removed is made again with the next log.
func TestRemovedDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "memory", "aggregate")
	a := open(t, tenth(), at(0), dir)
	put(a, "a:1|c")
	if err := os.RemoveAll(filepath.Dir(dir)); err != nil {
		t.Fatal(err)
	}
	a.Seal(at(10))
	points(a)
	put(a, "a:1|c")
	if a = open(t, tenth(), at(11), dir); a.Lines() != 1 {
		t.Errorf("%d lines found", a.Lines())
	}
}

// Where a base could not be written while the points of its slot left, and the next is not
// complete, lines count that came since.
func TestNoBase(t *testing.T) {
	defer func(step int) { baseStep = step }(baseStep)
	baseStep = 1
	dir := t.TempDir()
	a := open(t, tenth(), at(0), dir)
	a.SetNamed(true, at(0))
	put(a, "a:1|c", "b:1|c", "c:1|c", "d:1|c", "g:7|g")
	a.Seal(at(10))
	put(a, "a:1|c")
	a.journal.breaks(syscall.ENOSPC)
	put(a, "a:1|c")
	points(a)
	put(a, "a:1|c", "g:+1|g", "g:+1|g", "a:1|c") // of the base, only g and d are there
	a = open(t, tenth(), at(11), dir)
	if a.Lines() != 4 || a.Lost() != 2 || a.IsFlushing() || valueOf(a, "g", gaugeKind) != 9 {
		t.Errorf("%d lines found, %d lost; the gauge is %v", a.Lines(), a.Lost(), valueOf(a, "g", gaugeKind))
	}
}

// What a process had counted and could not write, the next one knows to be lost, until a base has
// made good for it.
func TestLost(t *testing.T) {
	dirs := []string{filepath.Join(t.TempDir(), "memory"), filepath.Join(t.TempDir(), "state")}
	var a *Aggregator
	start := func(wantLines, wantLost int) {
		t.Helper()
		if a = open(t, tenth(), at(0), dirs...); a.Lines() != wantLines || a.Lost() != wantLost {
			t.Errorf("%d lines found, %d lost; want %d, %d", a.Lines(), a.Lost(), wantLines, wantLost)
		}
	}
	start(0, 0)
	a.SetNamed(true, at(0))
	put(a, "c:1|c", "c:1|c", "c:1|c")
	a.journal.breaks(syscall.ENOSPC)
	put(a, "c:2|c")
	put(a, "c:2|c")
	start(3, 2)
	start(3, 0)
	a.journal.breaks(syscall.ENOSPC)
	put(a, "c:2|c")
	a.Seal(at(10))
	a.journal.breaks(syscall.ENOSPC)
	put(a, "c:2|c")
	start(3, 2)
	a.journal.breaks(syscall.ENOSPC)
	put(a, "c:2|c")
	a.Seal(at(20))
	put(a, "c:2|c")
	points(a)
	put(a, "c:2|c")
	start(2, 0)
}

// Where the disk takes nothing at a stop, what was counted is left in memory.
func TestNoDisk(t *testing.T) {
	memory, file := filepath.Join(t.TempDir(), "memory"), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(file, "disk") // which nobody can make
	a := open(t, tenth(), at(0), memory, disk)
	put(a, "c:1|c", "g:5|g")
	if err := a.Close(disk); err != nil {
		t.Error(err)
	}
	a = open(t, tenth(), at(2), memory, disk)
	a.SetNamed(true, at(2))
	a.Seal(at(14))
	equal(t, points(a), []string{"N.c.count 1 @0", "N.c.rate 0.1 @0", "N.g 5 @0"})
}

// What was counted is kept where less memory is allowed since; there is room for nothing
// new.
func TestLessMemory(t *testing.T) {
	cfg, dir := tenth(), t.TempDir()
	a := open(t, cfg, at(0), dir)
	put(a, "g:-3|g")
	for i := range 10_000 {
		put(a, fmt.Sprintf("c%d:1|c", i))
	}
	a.checkpoint()
	put(a, "g:+1|g")
	cfg.Memory = 1 << 20
	b := open(t, cfg, at(1), dir)
	if got := b.Stats().Series; got != 10_001 || valueOf(b, "g", gaugeKind) != -2 {
		t.Errorf("%d series are there, and the gauge is %v", got, valueOf(b, "g", gaugeKind))
	}
	if why := put(b, "new:1|c"); why != "series_full" {
		t.Errorf("a new series is %v, want series_full", why)
	}
}

// What was counted in the place of what had left is counted again, though at the start nothing
// has left yet.
func TestKilledAtBound(t *testing.T) {
	cfg, dir := tenth(), t.TempDir()
	cfg.Memory, cfg.Expire = 1<<20, cfg.Interval
	a := open(t, cfg, at(0), dir)
	a.SetNamed(true, at(0))
	old, lines := 0, 0
	for put(a, fmt.Sprintf("old%d:1|c", old)) == "" {
		old++
	}
	a.Seal(at(10))
	points(a)
	a.Seal(at(20))
	a.Take(old / 2)
	for put(a, fmt.Sprintf("new%d:1|c", lines)) == "" {
		lines++
	}
	if got := open(t, cfg, at(21), dir).Lines(); got != lines || lines == 0 {
		t.Errorf("%d lines found, want %d", got, lines)
	}
}

// What a checkpoint holds of all types is what there was.
func TestCheckpoint(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Memory = 1 << 20
	dir := t.TempDir()
	a := open(t, cfg, at(0), dir)
	put(a, "c:2|c|@0.5", "g:-3|g", "s:x|s:y|s", "small:1.5|ms|@0.1")
	for i := range 50_000 {
		put(a, fmt.Sprintf("big:%d|ms", i))
	}
	put(a, "big:1.79e308|h", "big:-1.79e308|h", "big:5e-324|h")
	a.checkpoint()
	b := open(t, cfg, at(1), dir)
	for _, x := range []*Aggregator{a, b} {
		x.SetNamed(true, at(0))
		put(x, "c:1|c", "g:+1|g", "s:z|s", "small:2|ms", "big:1|ms")
		x.journal = journal{} // both have one directory
		x.Seal(at(10))
	}
	equal(t, points(b), points(a))
}
