package testbed

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/line"
)

var (
	valuesSeed   = flag.Uint64("values.seed", 1, "seed of the input of TestValues")
	valuesRounds = flag.Int("values.rounds", 1, "flushes that TestValues compares, of each layout")
)

// Where we differ from statsd 0.9 on purpose (LINES.md), its input is left out here:
// packed values, rates with an exponent, types that are none, h and d, values that are
// no finite number, fields of DogStatsD but tags at the end, and two spellings of one name.

// TestValues feeds a real statsd 0.9 and us the same random lines in one slot, and
// compares all series and values, to the last digit.
func TestValues(t *testing.T) {
	t.Parallel()
	for i, layout := range []aggregate.Layout{aggregate.Plain, aggregate.StatsD, aggregate.Legacy} {
		t.Run(string(layout), func(t *testing.T) {
			t.Parallel()
			compareValues(t, layout, *valuesSeed+uint64(i))
		})
	}
}

const valuesInterval = 3 // seconds

func compareValues(t *testing.T, layout aggregate.Layout, seed uint64) {
	t.Logf("-values.seed %d", *valuesSeed)
	r := rand.New(rand.NewPCG(seed, 0))
	percentiles := randomPercentiles(r)
	statsd := startValuesStatsD(t, layout, percentiles)
	cfg := aggregate.DefaultConfig()
	cfg.Interval, cfg.Layout, cfg.Percentiles, cfg.Expire = valuesInterval*time.Second, layout, percentiles, 0
	now := time.Unix(1_700_000_001, 0)
	ours, err := aggregate.Open(cfg, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	ours.SetNamed(true, now)
	rules := line.Rules{From: "host", To: "{name}", Unmatched: line.DropUnmatched, Points: true}
	rewriter := rules.Rewriter(line.StatsD, "")
	tcp, udp := statsd.dial(t, "tcp"), statsd.dial(t, "udp")
	var reading aggregate.Reading
	for round := range *valuesRounds {
		var input []byte
		sent := 0
		for i := range 4000 {
			if i == 200 { // by TCP statsd reads ASCII
				statsd.send(t, udp, input)
				input = nil
			}
			text := randomMetric(r, i < 200)
			out, result := rewriter.Append(nil, []byte(text), 0)
			if result != line.Rewritten {
				continue // statsd might end by it
			}
			reading.Line(out, cfg.Tags)
			ours.Add(&reading)
			input = append(append(input, text...), '\n')
			sent++
		}
		statsd.send(t, tcp, input)
		theirs := statsd.flush(t, sent)
		now = now.Add(valuesInterval * time.Second)
		ours.Seal(now)
		compareFlushes(t, round, theirs, flushOurs(ours))
	}
}

// Names and tags are spelled in any way: both have the same series, on the way that lines take
// in the daemon. Graphite's empty last node is none to us.
func TestSeriesOfSpellings(t *testing.T) {
	t.Parallel()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	statsd := startValuesStatsD(t, aggregate.Plain, nil)
	cfg := aggregate.DefaultConfig()
	cfg.Percentiles, cfg.Interval = nil, valuesInterval*time.Second
	now := time.Unix(1_700_000_001, 0)
	ours, err := aggregate.Open(cfg, nil, now)
	if err != nil {
		t.Fatal(err)
	}
	rewriter := line.Rules{From: "host", To: "{name}", Unmatched: line.DropUnmatched, Points: true}.Rewriter(line.StatsD, "")
	udp := statsd.dial(t, "udp")
	parts := slices.Concat(oddities, []string{"a", "b", "9", ";", "=", ";k=v", " ", "\t", "__proto__", ";name=z", ";q=", ";=q", "host"})
	tags := slices.Concat(parts, []string{":", ",", "k:v", "name:z", "q:", ":q", ",,"})
	some := func(from []string, most int, without string) (text string) {
		for range r.IntN(most) {
			if part := from[r.IntN(len(from))]; !strings.ContainsAny(part, without) {
				text += part
			}
		}
		return text
	}
	var reading aggregate.Reading
	var input []byte
	sent := 0
	for i := range 1000 {
		text := fmt.Sprintf("host.%s.u%dx%s:%d|%s", some(parts, 8, "|;"), i, some(parts, 3, "|"), i, []string{"c", "g", "ms", "s"}[r.IntN(4)])
		if r.IntN(2) == 0 {
			text += "|#" + some(tags, 9, "|")
		}
		out, _ := rewriter.Append(nil, []byte(text), 0)
		if path, metrics, ok := rewriter.CutOwn([]byte(text)); !ok || !reading.Plain(path, metrics) {
			if why := reading.Line(out, cfg.Tags); why != line.Rewritten {
				t.Errorf("%q is refused: %s", text, why.Reason())
				continue
			}
		}
		ours.Add(&reading)
		input = append(append(input, text...), '\n')
		if sent++; i%20 == 19 { // its receive buffer is small
			statsd.send(t, udp, input)
			input = nil
			statsd.await(t, sent)
		}
	}
	theirs := statsd.flush(t, sent)
	ours.Seal(now.Add(valuesInterval * time.Second))
	compareFlushes(t, 0, withoutLast(theirs), withoutLast(flushOurs(ours)))
}

// withoutLast takes empty last nodes from names.
func withoutLast(all map[string]string) map[string]string {
	named := map[string]string{}
	for name, value := range all {
		path, tags, _ := strings.Cut(name+";", ";")
		named[strings.TrimRight(path, ".")+";"+tags] = value
	}
	return named
}

// compareFlushes wants both to have the same series with the same values.
func compareFlushes(t *testing.T, round int, theirs, ours map[string]string) {
	series := 0
	for _, name := range slices.Sorted(maps.Keys(theirs)) {
		value := theirs[name]
		if strings.Contains(name, "statsd.") || value == "NaN" {
			continue // statsd's own, and percentiles that are left out
		}
		series++
		if ours[name] != value {
			t.Errorf("round %d: %s is %q, statsd says %q", round, name, ours[name], value)
		}
		delete(ours, name)
	}
	for name, value := range ours {
		t.Errorf("round %d: %s is %s, statsd has no such series", round, name, value)
	}
	t.Logf("round %d: %d values are the same", round, series)
}

// flushOurs returns our points, named host.
func flushOurs(a *aggregate.Aggregator) map[string]string {
	var out []byte
	for more := true; more; {
		more = a.Take(100)
		out = a.Points(out)
	}
	a.Flushed()
	return pointsOf(strings.ReplaceAll(string(out), line.Mark, "host"))
}

// pointsOf reads points, by the names that Graphite stores them under.
func pointsOf(text string) map[string]string {
	all := map[string]string{}
	for ln := range strings.Lines(text) {
		f := strings.Fields(ln)
		path, rest, _ := strings.Cut(f[0], ";")
		for strings.Contains(path, "..") {
			path = strings.ReplaceAll(path, "..", ".")
		}
		tags := map[string]string{}
		for tag := range strings.SplitSeq(rest, ";") {
			if key, value, _ := strings.Cut(tag, "="); key != "" && value != "" { // Carbon refuses the line
				tags[key] = value
			}
		}
		delete(tags, "name") // which to Carbon is the path
		for _, key := range slices.Sorted(maps.Keys(tags)) {
			path += ";" + key + "=" + tags[key]
		}
		all[path] = f[1]
	}
	return all
}

// randomPercentiles returns some that are not the same.
func randomPercentiles(r *rand.Rand) (all []float64) {
	odd := []float64{0, 100, -100, 0.001, -0.001, 1e-7, -1e-7, 99.9, 99.999, -99.95, 50, 25.5, 33.333333333333336}
	for range 1 + r.IntN(7) {
		p := float64(r.IntN(201) - 100)
		if r.IntN(2) == 0 {
			p = odd[r.IntN(len(odd))]
		}
		if !slices.Contains(all, p) {
			all = append(all, p)
		}
	}
	return all
}

// randomMetric returns a line of StatsD, of ASCII or of more than that.
func randomMetric(r *rand.Rand, wide bool) string {
	pick := func(from ...string) string { return from[r.IntN(len(from))] }
	types := []string{"c", "g", "ms", "s", "m", "c", "ms", " c", "g ", "ms "}
	names := []string{"a", "b", "c.d", "e f", "g/h", "i..j", "k!l", "m-n_o", "p;q=1", "r;t=2;s=1", "constructors", "A.B=", "u|v", "w\tx"}
	if wide {
		types = []string{"c", "g", "ms", "s", "c\ufeff", "\u3000ms", "g\u00a0"}
		names = []string{"aa\u00e9", "bb\u00a0b", "\u3000cc", "dd\ufeffd", "ee\u0085e", "ff\xfff", "gg\u2028 g", "hh\u180eh", "ii\U0001f600i"}
	}
	kind := r.IntN(len(types))
	name := "host." + pick(names...)
	name += fmt.Sprint(kind) // else a type may have points of another's name
	if r.IntN(8) == 0 {
		name += fmt.Sprint(r.IntN(40))
	}
	if strings.Contains(name, ";") {
		types[kind] = strings.TrimSpace(types[kind])
	}
	metrics := ""
	for range 1 + r.IntN(3)/2 {
		metrics += ":" + randomValue(r) + "|" + types[kind]
		if r.IntN(4) == 0 {
			metrics += "|@" + pick("0.1", "0.5", "1", "0.333", ".25", "1.", "0.01", "2", "00.5", "1.0000001")
			metrics += pick("", "", "", "", "|@0.5", "|x", "|")
		} else if r.IntN(30) == 0 {
			metrics += pick("|x", "|", "|1", "||@0.5", "|x|@0.1")
		}
	}
	if r.IntN(6) == 0 {
		tags := r.IntN(11)
		metrics += "|#" + []string{"x:1", "y:2,x:1", "z:a/b", "v:a b", "x:u:w", "f:1;u;w:2", "x=1", ":1,x:2", "name:z,x:7", "x:1,x:3", "~k:~v"}[tags]
		name += fmt.Sprintf("-%d", tags) // else Graphite stores some as one
	}
	return name + metrics
}

// randomValue returns a value, which may be an odd one.
func randomValue(r *rand.Rand) string {
	sign := []string{"", "", "", "+", "-"}[r.IntN(5)]
	switch r.IntN(12) {
	case 0:
		return []string{"0x1f", "0b101", "0o17", "1e3", "1E-3", "5.", ".5", " 7", "8 ", "1e-7", "1e21", "1e300", "123456789012345678901234", "0", "-0", "00012", "9007199254740993", "abc", "", " ", "-", "+-1", "1_0", "0x", "0xg", "-0x10", "1,5", "Infinities", "0x200000000000011", "0B11", "0O7", "+.5", "1.e2", ".", "1e-400", "0.1e1", "999999999999.99", "99999999999999.9", "0x1_0", "\t3"}[r.IntN(40)]
	case 1, 2:
		return sign + fmt.Sprint(r.NormFloat64())
	case 3:
		return sign + fmt.Sprint(r.ExpFloat64()*1e9)
	case 4, 5, 6:
		return sign + fmt.Sprintf("%.2f", r.Float64()*1000)
	}
	return sign + fmt.Sprint(r.IntN(1000))
}

// A valuesStatsD is a statsd whose flushes a test reads, and begins: by a signal in
// place of a timer.
type valuesStatsD struct {
	*statsD
	carbon net.Listener
}

const flushBySignal = `
const timer = setTimeout;
global.setTimeout = (f, ...rest) => f.name === "flushMetrics" ? process.once("SIGUSR2", f) : timer(f, ...rest);
`

func startValuesStatsD(t *testing.T, layout aggregate.Layout, percentiles []float64) *valuesStatsD {
	t.Helper()
	carbon, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { carbon.Close() })
	script := writeFile(t, flushBySignal, t.TempDir(), "flush.js")
	names := map[aggregate.Layout]string{aggregate.Plain: plainStatsD, aggregate.StatsD: `legacyNamespace: false`}[layout]
	thresholds := strings.Trim(strings.Join(strings.Fields(fmt.Sprint(percentiles)), ","), "[]")
	settings := fmt.Sprintf("graphite: {%s}, flushInterval: %d, percentThreshold: [%s]", names, 1000*valuesInterval, thresholds)
	return &valuesStatsD{startStatsD(t, carbon.Addr().String(), settings, "-r", script), carbon}
}

func (s *valuesStatsD) dial(t *testing.T, network string) net.Conn {
	t.Helper()
	conn, err := net.Dial(network, s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// send sends lines in one piece.
func (s *valuesStatsD) send(t *testing.T, conn net.Conn, lines []byte) {
	t.Helper()
	if _, err := conn.Write(lines); err != nil {
		t.Fatal(err)
	}
}

// flush returns what statsd flushes when it has read so many lines.
func (s *valuesStatsD) flush(t *testing.T, lines int) map[string]string {
	t.Helper()
	s.await(t, lines)
	s.Signal(syscall.SIGUSR2)
	conn, err := s.carbon.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return pointsOf(string(text))
}

// await waits until statsd has counted so many lines since its last flush.
func (s *valuesStatsD) await(t *testing.T, lines int) {
	t.Helper()
	eventually(t, "all lines counted by statsd", func() error {
		if got := s.received(t); got != lines {
			return fmt.Errorf("got %d of %d", got, lines)
		}
		return nil
	})
}

// received returns how many lines statsd has counted since its last flush.
func (s *valuesStatsD) received(t *testing.T) (received int) {
	t.Helper()
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Console))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	s.send(t, conn, []byte("counters\n"))
	for lines := bufio.NewScanner(conn); lines.Scan() && lines.Text() != "END"; {
		if n, ok := strings.CutPrefix(lines.Text(), "  'statsd.metrics_received': "); ok {
			fmt.Sscan(n, &received)
		}
	}
	return received
}
