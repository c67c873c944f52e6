package aggregate

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// at is a time of the tests: second 0 begins a slot.
func at(seconds float64) time.Time {
	return time.Unix(1_700_000_000, 0).Add(time.Duration(seconds * float64(time.Second)))
}

// points takes all points of the sealed slot, as "name value @second", sorted.
func points(a *Aggregator) (all []string) {
	var out []byte
	for more := true; more; {
		more = a.Take(3)
		out = a.Points(out)
	}
	a.Flushed()
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(strings.Replace(line, "\x01", "N", 1))
		second, _ := strconv.ParseInt(f[2], 10, 64)
		all = append(all, fmt.Sprintf("%s %s @%d", f[0], f[1], second-at(0).Unix()))
	}
	slices.Sort(all)
	return all
}

// put counts lines, given without the mark, and returns why the last is not counted.
func put(a *Aggregator, lines ...string) (why string) {
	r := readings.Get().(*Reading)
	defer readings.Put(r)
	for _, l := range lines {
		why = r.Line([]byte("\x01."+l+"\n"), a.cfg.Tags).Reason()
		if why == "" && a.Add(r) == 0 {
			why = "series_full"
		}
	}
	return why
}

var readings = sync.Pool{New: func() any { return new(Reading) }} // they are large

// putAll counts lines, with the mark, and returns how many.
func putAll(a *Aggregator, lines []byte) (counted int) {
	r := readings.Get().(*Reading)
	defer readings.Put(r)
	for line := range bytes.Lines(lines) {
		if r.Line(line, a.cfg.Tags); r.IsFull() {
			counted += a.Add(r)
		}
	}
	return counted + a.Add(r)
}

func open(t *testing.T, cfg Config, now time.Time, dirs ...string) *Aggregator {
	t.Helper()
	a, err := Open(cfg, dirs, now)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Trouble(); err != nil {
		t.Fatal(err)
	}
	return a
}

// tenth is the configuration with a slot of 10 s.
func tenth() Config {
	cfg := DefaultConfig()
	cfg.Percentiles = nil
	return cfg
}

func equal(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestLines(t *testing.T) {
	for _, c := range []struct {
		line string
		want string // points; or the reason
	}{
		{"a:1|c", "N.a.count=1 N.a.rate=0.1"},
		{"a:1|c|@0.1", "N.a.count=10 N.a.rate=1"},
		{"a:1|c|@1e-1", "N.a.count=10 N.a.rate=1"},
		{"a:1:2:3|c", "N.a.count=6 N.a.rate=0.6"},
		{"a:1|c:2|g", "N.a=2 N.a.count=1 N.a.rate=0.1"},
		{"a:1|c|c:in-12:3|T17|@0.5|e:x", "N.a.count=2 N.a.rate=0.2"},
		{"a:1|c|#b:1,c,d:2", "N.a.count;b=1;d=2=1 N.a.rate;b=1;d=2=0.1"},
		{"a;z=1;b=2:1|g", "N.a;b=2;z=1=1"},
		{"a;b=2:1|g|#b:3", "N.a;b=3=1"},
		{"a;name=x:1|g|#name:y", "N.a=1"},
		{"a:1|g|#b:1;c;d=2", "N.a;b=1_c;d=2=1"},
		{"a:1|c|@0.5|@0.5|x", "N.a.count=2 N.a.rate=0.2"},
		{"a:x| s", "bad_value"},
		{".a..b.:1|g", "N.a.b=1"},
		{"a/b c\u00e9:1|g", "N.a-b_c=1"},
		{"a:0x10|g", "N.a=16"},
		{"a: 5 |g ", "N.a=5"},
		{"a:-5|g", "N.a=-5"},
		{"a:1e21|g", "N.a=1e+21"},
		{"a:1.5e-7|g", "N.a=1.5e-7"},
		{"a:0.1|g:+0.2|g", "N.a=0.30000000000000004"},
		{"a:x|s:y|s:x|s", "N.a.count=2"},
		{"a:1|x", "no_point"}, {"a:1|", "no_point"}, {"_e{1,1}:a|b", "N._e11=?"},
		{"a:x|c", "bad_value"}, {"a:1e999|c", "bad_value"}, {"a:inf|g", "bad_value"}, {"a:-1|ms", "bad_value"},
		{"a:1|c|x", "bad_value"}, {"a:1|c||@0.5", "bad_value"}, {"a:1|c|x|@0.5", "bad_value"}, {"a:1_0|c", "bad_value"}, {"a:0x1_0|c", "bad_value"},
		{"a:0x200000000000011|g", "N.a=144115188075855900"},
		{"a:0B11|g:+.5|g", "N.a=3.5"},
		{strings.Repeat("n", 251) + ":1|c", "bad_path"},
		{"constructor:1|c", "N.constructor.count=1 N.constructor.rate=0.1"},
	} {
		a := open(t, tenth(), at(0))
		why := put(a, c.line)
		if strings.HasSuffix(c.want, "?") {
			continue
		}
		got := why
		if why == "" {
			a.named = true
			a.Seal(at(10))
			var all []string
			for _, p := range points(a) {
				f := strings.Fields(p)
				all = append(all, f[0]+"="+f[1])
			}
			got = strings.Join(all, " ")
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.line, got, c.want)
		}
	}
}

func TestLayouts(t *testing.T) {
	for layout, want := range map[Layout][]string{
		Plain:  {"N.c.count 1 @0", "N.c.rate 0.1 @0", "N.g;k=v 2 @0", "N.s.count 1 @0"},
		StatsD: {"stats.counters.N.c.count 1 @0", "stats.counters.N.c.rate 0.1 @0", "stats.gauges.N.g;k=v 2 @0", "stats.sets.N.s.count 1 @0"},
		Legacy: {"stats.N.c 0.1 @0", "stats.gauges.N.g;k=v 2 @0", "stats.sets.N.s.count 1 @0", "stats_counts.N.c 1 @0"},
	} {
		cfg := tenth()
		cfg.Layout = layout
		a := open(t, cfg, at(0))
		a.SetNamed(true, at(0))
		put(a, "c:1|c", "g:2|g|#k:v", "s:x|s")
		a.Seal(at(10))
		equal(t, points(a), want)
	}
}

// The name of a series is that of itself, so that a line spelled like it needs no more
// than to be found; nor does what was a series before tags were dropped get lines.
func TestNames(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	const odd = "ab.;==,/: ~#\xc3\xa9\xa0"
	text := func() (b []byte) {
		for range random.IntN(12) {
			b = append(b, odd[random.IntN(len(odd))])
		}
		return b
	}
	for range 20_000 {
		raw, dog := text(), text()
		var c canonicalizer
		name := string(c.of(raw, dog))
		if again := string(c.of([]byte(name), nil)); again != name {
			t.Fatalf("%q with %q is %q, and that is %q", raw, dog, name, again)
		}
	}

	cfg := tenth()
	a := open(t, cfg, at(0))
	a.SetNamed(true, at(0))
	put(a, "a:1|c|#b:1")
	cfg.Tags = DropTags
	a.Reconfigure(cfg, at(1))
	put(a, "a;b=1:2|c", "a:4|c|#b:1", "a;c=2:8|c|#b:1")
	if n := len(a.spellings); n != 0 {
		t.Errorf("%d spellings are remembered without need", n)
	}
	a.Seal(at(10))
	equal(t, points(a), []string{"N.a.count 14 @0", "N.a.count;b=1 1 @0", "N.a.rate 1.4 @0", "N.a.rate;b=1 0.1 @0"})
}

// A line that is taken as it came counts as it does if it is rewritten and checked first.
func TestPlain(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	metrics := []string{
		":1|c", ":2.5|ms", ":3|g", ":+1|g", ":4|h", ":1|c|@0.5", ":1|s", ":12|", ":\x011|s", ":-1|c", ":-2|g", ":+|g", ":|s", ":a:b|s", ":1|ms|@0", ":1|c|@.25|#b:1,a", ":1|c|#a:2,b:1|c:x", ":1|c|#b:1,a:2", ":1|c|#a:1|@0.5", ":1|g|c:x|#y:1", ":1|c|@1|x", ":1|h:2|c", ":2|d|#",
	}
	const odd = "aaabbb..;=,/:|# \xc3\xa9\xa0\x7f\x01{[@~-+z"
	for _, rules := range []line.Rules{{From: "host", To: "{name}"}, {From: "x", To: "x.{name}"}, {From: "x.y", To: "s.{name}"}} {
		rules.Unmatched, rules.Points, rules.Names = line.PrefixUnmatched, true, []string{"Denali", "MtLogan"}
		rw := rules.Rewriter(line.StatsD, "Denali")
		short, long := open(t, tenth(), at(0)), open(t, tenth(), at(0))
		plain := 0
		for range 8_000 {
			ln := []byte(rules.From + ".")
			for range random.IntN(20) {
				ln = append(ln, odd[random.IntN(len(odd))])
			}
			ln = append(ln, []string{"", ".host", ".Denali", "x.y.z"}[random.IntN(4)]...)
			ln = append(ln, metrics[random.IntN(len(metrics))]...)
			var r Reading
			path, rest, ok := rw.CutOwn(ln)
			if !ok || !r.Plain(path, rest) {
				continue
			}
			short.Add(&r)
			plain++
			out, result := rw.Append(nil, ln, 0)
			path, rest = cut(bytes.TrimSuffix(out, newline), ':')
			if !result.Appended() || check(bytes.TrimPrefix(path[1:], dot), rest, GraphiteTags) != line.Rewritten {
				t.Fatalf("%q is refused: %v", ln, result)
			}
			r.put(bytes.TrimPrefix(path[1:], dot), rest)
			long.Add(&r)
		}
		short.Seal(at(10))
		long.Seal(at(10))
		if equal(t, points(short), points(long)); plain < 200 && !strings.HasPrefix(rules.To, rules.From) {
			t.Errorf("%v: only %d lines were plain", rules, plain)
		}
	}
}

// What is in the table is found, and nothing else, whatever shares a hash.
func TestTable(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	table, in := newTable(), map[string]*series{}
	for range 20_000 {
		n := random.Uint64N(300)
		name, hash := fmt.Sprint(n), n%60
		k := kind(1 + n%2)
		s := table.find([]byte(name), k, hash)
		if s != in[name] {
			t.Fatalf("%s: got %v, want %v", name, s, in[name])
		}
		if s == nil {
			in[name] = &series{name: name, kind: k}
			table.put(in[name], hash)
		} else if random.IntN(2) == 0 {
			table.remove(s, hash)
			delete(in, name)
		}
	}
}

// Counters go on with 0, gauges with their last value, until they expire.
func TestIdleSeries(t *testing.T) {
	cfg := tenth()
	cfg.Expire = 20 * time.Second
	a := open(t, cfg, at(0))
	a.SetNamed(true, at(0))
	put(a, "c:5|c", "g:7|g", "t:1|ms", "s:x|s")
	a.Seal(at(10))
	points(a)
	a.Seal(at(20))
	equal(t, points(a), []string{"N.c.count 0 @10", "N.c.rate 0 @10", "N.g 7 @10", "N.s.count 0 @10", "N.t.count 0 @10", "N.t.count_ps 0 @10"})
	a.Seal(at(30))
	points(a)
	a.Seal(at(40))
	equal(t, points(a), nil)
	if s := a.Stats(); s.Bytes != 0 || s.Series != 0 || a.table.used != 0 {
		t.Errorf("what has expired is still there: %+v", s)
	}
}

// A series that has expired is another when it comes again, however it is spelled.
func TestExpired(t *testing.T) {
	cfg := tenth()
	cfg.Expire = 10 * time.Second
	a := open(t, cfg, at(0))
	a.SetNamed(true, at(0))
	for slot := range 3 {
		if slot != 1 {
			put(a, "g:+1|g|#b:1,a:2")
		}
		a.Seal(at(10 * float64(slot+1)))
		equal(t, points(a), []string{fmt.Sprintf("N.g;a=2;b=1 1 @%d", 10*slot)})
	}
}

// What comes while a slot is flushed counts in the next.
func TestFlushInParts(t *testing.T) {
	a := open(t, tenth(), at(0))
	a.SetNamed(true, at(0))
	put(a, "a:1|c", "b:1|g", "c:1|ms", "d:x|s")
	a.Seal(at(10))
	put(a, "a:10|c", "b:10|g", "c:10|ms", "d:y|s", "e:1|c")
	a.Take(2)
	first := a.Points(nil)
	put(a, "a:100|c", "b:+5|g", "d:z|s")
	if !bytes.Contains(first, []byte("d.count 1 ")) {
		t.Errorf("got %q", first)
	}
	equal(t, points(a), []string{"N.a.count 1 @0", "N.a.rate 0.1 @0", "N.b 1 @0"})
	a.Seal(at(20))
	got := points(a)
	for _, want := range []string{"N.a.count 110 @10", "N.b 15 @10", "N.c.sum 10 @10", "N.d.count 2 @10", "N.e.count 1 @10"} {
		if !slices.Contains(got, want) {
			t.Errorf("%s is missing in %q", want, got)
		}
	}
}

// Points are made beside what comes, as the race detector sees.
func TestPointsBesideLines(t *testing.T) {
	a := open(t, tenth(), at(0))
	a.SetNamed(true, at(0))
	var lines []byte
	for i := range 100 {
		lines = fmt.Appendf(lines, "\x01.t%d:1:2:3|ms\n\x01.s%d:x|s\n\x01.c%d:1|c\n", i%50, i%50, i%50)
	}
	add := func() {
		if n := putAll(a, lines); n != 300 {
			t.Errorf("%d lines are counted", n)
		}
	}
	sent, got := 1, 0.0
	add()
	for slot := range 4 {
		a.Seal(at(10 * float64(slot+1)))
		for more := true; more; {
			more = a.Take(20)
			made := make(chan []byte)
			go func() { made <- a.Points(nil) }()
			if slot < 3 {
				add()
				sent++
			}
			for point := range strings.Lines(string(<-made)) {
				if name, rest, _ := strings.Cut(point, " "); strings.HasSuffix(name, ".count") && !strings.Contains(name, ".s") {
					var n float64
					fmt.Sscan(rest, &n)
					got += n
				}
			}
		}
		a.Flushed()
	}
	if want := float64(sent * 100 * (3 + 1)); got != want {
		t.Errorf("%v were counted, want %v", got, want)
	}
}

// No slot is used twice, whatever the clock does.
func TestClock(t *testing.T) {
	a := open(t, tenth(), at(0))
	a.SetNamed(true, at(0))
	starts := map[int64]bool{}
	total := 0
	for _, now := range []float64{1, 12, 5, 15, 25, 55, 26, 31, 42, 45, 56, 62, 71, 3600, 80, 91, 3601, 3611} {
		if a.IsOver(at(now)) {
			start := a.open.Start
			if starts[start] {
				t.Fatalf("slot %d is flushed twice", start-at(0).Unix())
			}
			starts[start] = true
			a.Seal(at(now))
			for _, p := range points(a) {
				if f := strings.Fields(p); f[0] == "N.a.count" {
					n, _ := strconv.Atoi(f[1])
					total += n
				}
			}
		}
		put(a, "a:1|c")
		if ahead := a.open.Start - at(now).Unix(); ahead > 10 {
			t.Errorf("at %v the open slot is %d s ahead", now, ahead)
		}
	}
	if want := 18 - a.open.Lines; total != want {
		t.Errorf("%d were counted, want %d", total, want)
	}
}

// No slot shares time with one that is closed, if a reload makes them longer.
func TestLongerSlots(t *testing.T) {
	cfg := tenth()
	a := open(t, cfg, at(51))
	a.Hold(at(52), "first") // before 60 the name may have been another's
	put(a, "a:1|c")
	a.Seal(at(65))
	equal(t, points(a), []string{"N.a.count 1 @60", "N.a.rate 0.1 @60"})
	put(a, "a:10|c")
	cfg.Interval = time.Minute
	a.Reconfigure(cfg, at(65))
	a.Seal(at(170))
	equal(t, points(a), []string{"N.a.count 10 @100", "N.a.rate 0.16666666666666666 @100"})
}

// What comes in the slot in which a tenure begins counts in the next.
func TestTenure(t *testing.T) {
	a := open(t, tenth(), at(0))
	put(a, "a:1|c") // no name yet
	a.Hold(at(5), "first")
	put(a, "a:10|c")
	if a.IsOver(at(19)) {
		t.Error("the slot of the first tenure ends too early")
	}
	a.Seal(at(20))
	equal(t, points(a), []string{"N.a.count 11 @10", "N.a.rate 1.1 @10"})

	put(a, "a:100|c")
	a.Hold(at(27), "second") // lost, and claimed again within a slot
	equal(t, points(a), []string{"N.a.count 100 @20", "N.a.rate 10 @20"})
	put(a, "a:1000|c")
	a.Seal(at(40))
	equal(t, points(a), []string{"N.a.count 1000 @30", "N.a.rate 100 @30"})
	if a.open.Tenure != "second" {
		t.Error("the tenure is forgotten")
	}
}

// Without a name a slot waits a little for one, and then is flushed as ever.
func TestNoName(t *testing.T) {
	a := open(t, tenth(), at(0))
	put(a, "a:1|c")
	if a.IsOver(at(12)) || !a.IsOver(at(13.5)) {
		t.Error("the slot does not end a third of the interval late")
	}
	a.Hold(at(12), "first")
	a.Seal(at(30))
	equal(t, points(a), []string{"N.a.count 1 @20", "N.a.rate 0.1 @20"})
}

func TestNumbers(t *testing.T) {
	for in, want := range map[float64]string{
		0: "0", math.Copysign(0, -1): "0", 1: "1", -1.5: "-1.5", 1e20: "100000000000000000000", 1e21: "1e+21", 123456789.123: "123456789.123",
		1e-6: "0.000001", 1e-7: "1e-7", 1.25e-10: "1.25e-10", 5e-324: "5e-324", 1.7976931348623157e308: "1.7976931348623157e+308", 0.1: "0.1", math.Inf(1): "Infinity", math.Inf(-1): "-Infinity",
	} {
		if got := string(appendNumber(nil, in)); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// A known series costs no memory.
func TestAllocations(t *testing.T) {
	a := open(t, tenth(), at(0))
	lines := []byte("\x01.api.requests:1|c|@0.5\n\x01.api.queue:12|g\n\x01.users:bob|s\n\x01.api..requests:1.5|c|#b:1,a:2\n")
	add := func() {
		if n := putAll(a, lines); n != 4 {
			t.Errorf("%d lines are counted", n)
		}
	}
	add()
	if n := testing.AllocsPerRun(100, add); n > 0 {
		t.Errorf("%v allocations for lines of known series", n)
	}
}

// What is counted of the memory is what is taken, however many samples or members each series has:
// but for what Go adds, an eighth at most.
func TestMemoryIsCounted(t *testing.T) {
	cfg := tenth()
	cfg.Memory = 1 << 30
	for typ, value := range map[string]func(int) string{"ms": func(int) string { return "1" }, "s": strconv.Itoa} {
		for _, each := range []int{1, 17, 129} {
			a := open(t, cfg, at(0))
			put(a, "first:1|c")
			var lines []byte
			for i := range 60_000 {
				lines = fmt.Appendf(lines, "\x01.x%d:%s|%s\n", i/each, value(i), typ)
			}
			before := heap()
			putAll(a, lines)
			if used := int64(heap() - before); used > a.Stats().Bytes*9/8 {
				t.Errorf("%s, %d of each: %d bytes are taken, and %d counted", typ, each, used, a.Stats().Bytes)
			}
			runtime.KeepAlive(lines)
			runtime.KeepAlive(a)
		}
	}
}

// However far apart the samples are that sketches take, what these take is counted.
func TestSketchesAreCounted(t *testing.T) {
	cfg := tenth()
	cfg.Memory = 4 << 20
	a := open(t, cfg, at(0))
	put(a, "first:1|c")
	before := heap()
	const timers = 500
	sample := func(v float64) (counted int) {
		var lines []byte
		for i := range timers {
			lines = fmt.Appendf(lines, "\x01.x%d:%g|ms\n", i, v)
		}
		return putAll(a, lines)
	}
	for i := range 500 {
		v := math.Pow(10, float64(i*7919%1000)/50-10)
		sample(v)
		sample(-v)
	}
	used, sketched := int64(heap()-before), a.Stats().Sketched
	if used > a.Stats().Bytes*9/8 || sketched < 10 {
		t.Errorf("%d bytes are taken, and %d counted, with %d sketches", used, a.Stats().Bytes, sketched)
	}
	cfg.Memory = 1 << 20
	a.Reconfigure(cfg, at(0))
	if n := sample(1e-10); n < int(sketched) {
		t.Errorf("with less room, %d samples are counted that are like others, though there are %d sketches", n, sketched)
	}
}

// heap returns how many bytes are in use.
func heap() uint64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// A hostile client costs others nothing: what was there goes on.
func TestBounds(t *testing.T) {
	cfg := tenth()
	cfg.Memory, cfg.Percentiles = 1<<20, []float64{90, 99.9, -10}
	a := open(t, cfg, at(0))
	a.SetNamed(true, at(0))
	put(a, "known:1|c", "t:1|ms")
	full := 0
	for i := range 100_000 {
		if put(a, fmt.Sprintf("hostile.%d:1|c", i)) == "series_full" {
			full++
		}
	}
	if s := a.Stats(); s.Bytes > 1<<20 || full < 90_000 {
		t.Errorf("%d bytes are taken, %d lines were refused", s.Bytes, full)
	}
	put(a, "known:1|c")
	const samples = 1_000_000
	for i := range samples - 1 {
		put(a, fmt.Sprintf("t:%d|ms", i+2))
	}
	a.Seal(at(10))
	got := map[string]float64{}
	for _, p := range points(a) {
		f := strings.Fields(p)
		got[f[0]], _ = strconv.ParseFloat(f[1], 64)
	}
	for name, want := range map[string]float64{"known.count": 2, "t.count": samples, "t.upper": samples, "t.lower": 1, "t.sum": samples * (samples + 1) / 2} {
		if got["N."+name] != want {
			t.Errorf("%s is %v, not %v exactly", name, got["N."+name], want)
		}
	}
	for name, want := range map[string]float64{
		"median": 0.5, "upper_90": 0.9, "upper_99_9": 0.999, "lower_top10": 0.9, "mean": 0.5, "mean_90": 0.45, "mean_top10": 0.95, "std": 0.2887, "count_90": 0.9,
	} {
		if v := got["N.t."+name] / samples; math.Abs(v-want) > want/100 {
			t.Errorf("%s is %v of the greatest, not within 1 %% of %v", name, v, want)
		}
	}
	if s := a.Stats(); s.Sketched != 1 {
		t.Errorf("%d timers went on in a sketch, want 1", s.Sketched)
	}
}
