package testbed

import (
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prefixproxy/prefixproxy/internal/serverpath"
	"github.com/prefixproxy/prefixproxy/membership"
)

// What a spelling is made odd with: separators, blanks, quotes, braces, tags, bytes
// that are not UTF-8, and what ends the process.
var (
	oddities = []string{
		".", "..", "/", "./", "//", "\u00a0", "\u2003", "\u0085", "\ufeff", "\u2028", "\u3000", "\u200b", "é", "日",
		"'", `"`, "{", "}", "(", ")", "@", "~", "~~", "%", "$", "!", "*", "^", "=", "&", "\\", ",", "#", "[", "]", "-", "_",
		"\xff", "\xc3", "\xe2\x80", "\x8a", "\xba", "\xfc", "\x85", "\xa0", "\xc0\xae", "\xe0\x80\xaf", // the last two: too long a '.' and '/'
		"\u1680", "\u180e", "\u202f", "\u205f", "\u2060", "\u200e", "\u00ad", "\u0307", "．", "／", "%2e", "\\.", "..../", "|", "`", "+", ">",
	}
	tails = []string{
		`{}`, `{"}`, `{a="b",}`, `{a="b"}{c="d"}`, `{{a="b"}`, `{a="\"}`, `{a="b":}`, `{a="é"}`, `{host="MtLogan.x"}`, ";a=b;", ";a=b/c.d", `;a="b"`, ";MtLogan=x", ";a=MtLogan.x",
		";__proto__=x", ";a=~", ";a!=b", ";é=b", ";a=b=c", ";", "~", "..", "/.", `{a="b"}`, `{a="b",c="d"}`, `{a="b"`, `{name="q"}`, ";a=b", ";c=d;a=b", ";name=q", ";bad", ",a=b", "[a]", "#a", "\u00a0", ""}
)

// spell returns path in a spelling that may be odd. Blanks are those of StatsD alone.
func spell(r *rand.Rand, path string, blanks bool) string {
	text := []byte(path)
	for range r.IntN(4) {
		at := r.IntN(len(text) + 1)
		if r.IntN(2) == 0 {
			at = 0
		}
		odd := oddities[r.IntN(len(oddities))]
		if blanks && r.IntN(10) == 0 {
			odd = " \t"[r.IntN(2):]
		}
		text = slices.Insert(text, at, []byte(odd)...)
	}
	if r.IntN(10) == 0 {
		text[r.IntN(len(text))] |= 0x80
	}
	if r.IntN(4) == 0 {
		text = append(text, tails[r.IntN(len(tails))]...)
	}
	return string(text)
}

// spellings returns n odd spellings, each of another path below one of roots, without
// those that no line can have.
func spellings(r *rand.Rand, n int, protocol string, roots ...string) (all []string) {
	for i := 0; len(all) < n; i++ {
		path := spell(r, fmt.Sprintf("%s.x%d", roots[r.IntN(len(roots))], i), protocol == "statsd")
		if r.IntN(8) == 0 {
			path = spell(r, roots[r.IntN(len(roots))], protocol == "statsd") // without a node behind it
		}
		if strings.ContainsAny(path, "\n:") || protocol == "carbon" && strings.ContainsAny(path, " \t") {
			continue
		}
		all = append(all, path)
	}
	return all
}

// files returns the files of all series that c has stored, less carbon's own.
func (c *carbonCache) files(t testing.TB) (files []string) {
	t.Helper()
	root := filepath.Join(c.dir, "whisper")
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			name, _ := filepath.Rel(root, path)
			files = append(files, name)
		}
		return nil // it may not be there yet
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// awaitFiles waits until c has the files of metrics, and no others.
func awaitFiles(t testing.TB, c *carbonCache, metrics map[string]string) {
	t.Helper()
	want := map[string]string{}
	for metric, line := range metrics {
		want[serverpath.File(metric)] = line
	}
	eventually(t, "the files that the model tells", func() error {
		files := c.files(t)
		for _, file := range files {
			if _, ok := want[file]; !ok && !strings.HasPrefix(file, "statsd") {
				t.Fatalf("%q is there: the model knows no line of it", file)
			}
		}
		for file, line := range want {
			if !slices.Contains(files, file) {
				return fmt.Errorf("%q of %q is not there, of %d files (%d wanted)", file, line, len(files), len(want))
			}
		}
		return nil
	})
}

// What a real carbon-cache stores odd paths under is what the model says.
func TestModelOfCarbon(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var text strings.Builder
	metrics := map[string]string{}
	for _, path := range spellings(rand.New(rand.NewPCG(seed, 1)), 500, "carbon", "host", "MtLogan", "app.cpu") {
		line := fmt.Sprintf("%s 1 %d", path, time.Now().Unix())
		if !utf8.ValidString(line) {
			continue // it closes the connection
		}
		fmt.Fprintln(&text, line)
		if metric, ok := serverpath.Carbon(line); ok {
			metrics[metric] = line
		}
	}
	send(t, "tcp", carbon.Addr, text.String())
	awaitFiles(t, carbon, metrics)
}

// What a real graphite-web refuses to index is what the model says, and with it goes
// what stands in the same request.
func TestModelOfTags(t *testing.T) {
	t.Parallel()
	graphite := startGraphiteWeb(t, newCarbonCache(t))
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	paths := []string{"a;b", "a;b=", "a;=b", "a;b=~c", "a;b!=c", "a;b=c;", "~", "~;a=b", `a{b="c"`, `a{b=c"}`, `{b="c"}`, `a{b="c"}`, "a;b=c=d", "a;b=é"}
	for i, path := range append(paths, spellings(rand.New(rand.NewPCG(seed, 1)), 50, "carbon", "host", "MtLogan")...) {
		if _, ok := serverpath.Carbon(path + " 1 1"); !ok {
			continue // carbon has no such series
		}
		status := graphite.tagSeries(t, path, fmt.Sprintf("good;number=%d", i))
		if taken := status == http.StatusOK; taken != serverpath.Taggable(path) {
			t.Errorf("%q: %d", path, status)
		}
	}
	if found := string(graphite.get(t, "/tags/findSeries?expr=number=0")); found != "[]" {
		t.Errorf("the neighbour of %q is indexed: %s", paths[0], found)
	}
}

// What a real statsd flushes of odd names is what the model says, by UDP and by TCP.
func TestModelOfStatsD(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			carbon := newCarbonCache(t)
			carbon.Start(t)
			statsd := startPlainStatsD(t, carbon.Addr)
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			conn, err := net.Dial(network, statsd.Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			var datagram []byte
			flush := func() {
				if _, err := conn.Write(datagram); err != nil {
					t.Fatal(err)
				}
				datagram = nil
			}
			metrics := map[string]string{}
			for _, path := range spellings(rand.New(rand.NewPCG(seed, 1)), 500, "statsd", "host", "MtLogan", "Pico-de_Orizaba") {
				line := path + ":1|g"
				for _, packet := range serverpath.StatsD(line, network == "tcp") {
					if _, ok := packet.Counts(); !ok {
						continue
					}
					if metric, ok := serverpath.Carbon(packet.Key + " 1 1"); ok {
						metrics[metric] = line
					}
				}
				if datagram = append(datagram, line+"\n"...); len(datagram) > 8<<10 { // few: its receive buffer is small
					flush()
				}
			}
			flush()
			awaitFiles(t, carbon, metrics)
		})
	}
}

// The lines that end a real statsd are those that the model says, and no others.
func TestWhatEndsStatsD(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	names := strings.Fields(`constructor __defineGetter__ __defineSetter__ hasOwnProperty __lookupGetter__
		__lookupSetter__ isPrototypeOf propertyIsEnumerable toString valueOf __proto__ toLocaleString`)
	var alive strings.Builder
	for _, name := range names {
		fmt.Fprintf(&alive, "%[1]s:1|c\n%[1]s:+1|g\n%[1]s.x:1|ms\n.%[1]s:1|s\n%[1]s;a=b:1|ms\n%[1]s:1|ms|#a\nx:%[1]s|s\n", name)
	}
	alive.WriteString("x:1|c|@1.\nx:1|c|@.5\nx:1|c|@1e-3\nx:1|c|@\u00851\nx:1|c|@-1\nx:1e400|ms\nx:Infinity|ms\n:1|ms\n__proto__:1|g\nalive:1|g\n")
	statsd := startPlainStatsD(t, carbon.Addr)
	send(t, "tcp", statsd.Addr, alive.String())
	eventually(t, "the gauge that came last", func() error {
		if !carbon.Has("alive.wsp") {
			return fmt.Errorf("it is not there; statsd said %q", statsd.Stderr.Text())
		}
		return nil
	})

	var deadly []string
	for _, name := range names {
		deadly = append(deadly, name+":1|ms", "("+name+"):1|s")
	}
	for _, line := range append(deadly, "x:1|c|@+1", "x:1|c|@ 1", "x:1|c|@Infinity", "constructo\xf2:1|ms", "x:1|c\x8atoString:1|ms") {
		packets := serverpath.StatsD(line, true)
		if !slices.ContainsFunc(packets, serverpath.Packet.Kills) {
			t.Errorf("%q is harmless, the model says", line)
		}
		statsd := startPlainStatsD(t, carbon.Addr)
		send(t, "tcp", statsd.Addr, line+"\n")
		if code := statsd.ExitCode(t); code == 0 {
			t.Errorf("%q: exit code 0", line)
		}
	}
}

// However a path is spelled: nothing comes under host, or under another host's name,
// in what a real carbon-cache and a real statsd store, and no line ends them.
func TestHostileSpellings(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			t.Parallel()
			carbon := newCarbonCache(t)
			carbon.Start(t)
			statsd := startPlainStatsD(t, carbon.Addr)
			d := startDaemon(t, spellingConfig, "ETCD="+embeddedEtcd(t), "CARBON="+carbon.Addr, "STATSD="+network+"://"+statsd.Addr)
			d.AwaitReady(t)
			d.AwaitName(t, "Denali")

			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			r := rand.New(rand.NewPCG(seed, 1))
			const each = 1500
			roots := []string{"host", "host", "MtLogan", "Denali", "app", "constructor", "Pico-de_Orizaba", "Pico de Orizaba"}
			now := time.Now().Unix()
			var text strings.Builder
			for _, path := range spellings(r, each, "carbon", roots[:6]...) {
				fmt.Fprintf(&text, "%s 1 %d\n", path, now)
			}
			fmt.Fprintf(&text, "host.last 1 %d\n", now)
			send(t, "tcp", d.Address(t, "carbon", "tcp://127.0.0.1:"), text.String())
			text.Reset()
			for _, path := range spellings(r, each, "statsd", roots...) {
				fmt.Fprintf(&text, "%s:1|%s\n", path, []string{"g", "c", "ms", "s"}[r.IntN(4)])
			}
			text.WriteString("host.laststatsd:1|g\n")
			send(t, "tcp", d.Address(t, "statsd", "tcp://127.0.0.1:"), text.String())

			carbon.AwaitValue(t, now, 1, "Denali", "last")
			eventually(t, "the last gauge", func() error {
				if !carbon.Has("Denali", "laststatsd.wsp") {
					return fmt.Errorf("it is not there; statsd said %q", statsd.Stderr.Text())
				}
				return nil
			})
			checkStored(t, carbon)
			checkBooks(t, d.AwaitUp(t))
		})
	}
}

const spellingConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: [tcp://127.0.0.1:0]
  carbon: [tcp://127.0.0.1:0]
forward:
  statsd: {to: ["${STATSD}"]}
  carbon: {to: ["tcp://${CARBON}"]}
telemetry: {statsd: false} # where the name came late, own lines are too old
`

// checkStored complains about series that Denali may not have written.
func checkStored(t testing.TB, c *carbonCache) {
	t.Helper()
	others := map[string]bool{"host": true}
	for _, name := range membership.Mountains() {
		others[name] = name != "Denali"
	}
	stored := c.created()
	for _, file := range c.files(t) {
		if path, plain := strings.CutSuffix(file, ".wsp"); plain && !strings.HasPrefix(file, "_tagged/") {
			stored[path] = true
		}
	}
	own := 0
	for metric := range maps.Keys(stored) {
		nodes := strings.SplitN(serverpath.Nodes(serverpath.Name(metric)), ".", 2)
		bareHost := nodes[0] == "host" && (len(nodes) == 1 || slices.Contains([]string{"count", "rate", "mean", "count_ps"}, nodes[1]) || strings.Contains(nodes[1], "_90") || slices.Contains([]string{"upper", "lower", "sum", "sum_squares", "median", "std"}, nodes[1]))
		if others[nodes[0]] && !bareHost {
			t.Errorf("%q was stored", metric)
		}
		if nodes[0] == "Denali" {
			own++
		}
	}
	if own < 300 {
		t.Errorf("%d series are under Denali, of those of 3,000 lines that are host.x in some spelling", own)
	}
}

// created returns the metrics that carbon-cache has made a file for, as its log has them.
func (c *carbonCache) created() map[string]bool {
	metrics := map[string]bool{}
	log, _ := os.ReadFile(filepath.Join(c.dir, "creates.log"))
	for line := range strings.Lines(string(log) + c.Stdout.Text()) {
		if _, rest, ok := strings.Cut(line, "creating database metric "); ok {
			metric, _, _ := strings.Cut(rest, " (archive=")
			metrics[metric] = true
		}
	}
	return metrics
}

// The longest names that the proxy lets pass are ones that a real carbon-cache can
// store, and what is beyond them is not stored.
func TestLongestNames(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	d := startDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+carbon.Addr)
	d.AwaitName(t, "Denali")
	node := strings.Repeat("x", 200) + "."
	long := strings.Repeat(node, 19)
	fits := map[string]string{
		"a node": "free.node." + strings.Repeat("n", 250), "many nodes": strings.Repeat("m.", 949) + "x",
		"a path": long + strings.Repeat("p", 4000-len(long)-len(".end")-100) + strings.Repeat(".y", 50) + ".end", "tags": "tagged;a=" + strings.Repeat("t", 300),
	}
	never := []string{
		"free.node." + strings.Repeat("n", 251), strings.Repeat("m.", 950) + "y", long + strings.Repeat("p", 200) + ".z",
		strings.Repeat("n", 251) + ";name=x", strings.Repeat("n", 251) + `{name="x"}`,
	}
	now := time.Now().Unix()
	var text strings.Builder
	metrics := map[string]string{}
	for _, name := range fits {
		line := fmt.Sprintf("%s 1 %d", name, now)
		fmt.Fprintln(&text, line)
		metric, _ := serverpath.Carbon(line)
		metrics[metric] = line[:20]
	}
	for _, name := range never {
		fmt.Fprintf(&text, "%s 1 %d\n", name, now)
	}
	fmt.Fprintf(&text, "late 1 %d000\n", now)
	send(t, "tcp", d.Address(t, "carbon", carbonListener), text.String())
	awaitFiles(t, carbon, metrics)
	if got := fmt.Sprint(d.AwaitUp(t).Lines["carbon"].Dropped); got != "map[bad_path:5 bad_timestamp:1]" {
		t.Errorf("dropped: %s, want 5 bad_path and 1 bad_timestamp", got)
	}
	if log := carbon.Stdout.Text(); strings.Contains(log, "Error creating") || strings.Contains(log, "Error writing") {
		t.Error("carbon-cache could not store one that came")
	}

	// Beyond: what the real one says of them.
	direct := map[string]string{"a node": strings.Repeat("n", 252), "many nodes": strings.Repeat("q.", 1100) + "y", "a path": strings.Repeat(node, 21)}
	for what, name := range direct {
		before := strings.Count(carbon.Stdout.Text(), "Error creating")
		send(t, "tcp", carbon.Addr, fmt.Sprintf("%s 1 %d\n", name, now))
		eventually(t, what+" that no file can have", func() error {
			if strings.Count(carbon.Stdout.Text(), "Error creating") == before {
				return fmt.Errorf("carbon has not complained")
			}
			return nil
		})
	}
}

// So it is with what a real statsd makes of StatsD's names, and sends to a carbon-cache.
func TestLongestStatsDNames(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	statsd := startPlainStatsD(t, carbon.Addr)
	d := startDaemon(t, spellingConfig, "ETCD="+embeddedEtcd(t), "CARBON="+carbon.Addr, "STATSD=tcp://"+statsd.Addr)
	d.AwaitReady(t)
	d.AwaitName(t, "Denali")
	longest := strings.Repeat("n", 250)
	for _, line := range []string{
		"fits." + longest + ":1|ms", "fits." + longest + ".(" + longest + "):1|g", longest + "x;a=b:1|g", longest + "y:1|g|#a:b",
		"fits;a=" + strings.Repeat("t", 16_000) + ":1|c", strings.Repeat("m.", 900) + "x:1|c",
		longest + "x:1|g", "a." + longest + "/.b:1|ms", strings.Repeat("m.", 960) + "y:1|g", strings.Repeat(longest+".", 17) + ":1|c",
		strings.Repeat("é", 251) + ":1|g", "_e{" + longest + ":1|g", longest + "x;name=b:1|g",
		"never;a=" + strings.Repeat("t", 16_200) + ":1|c", "never:1|c|#a:" + strings.Repeat("t", 16_200),
		"host.last:1|g",
	} {
		send(t, "tcp", d.Address(t, "statsd", "tcp://127.0.0.1:"), line+"\n")
	}
	eventually(t, "the last gauge, and the longest", func() error {
		for _, file := range []string{"last.wsp", "../fits/" + longest + "/upper.wsp", "../fits/" + longest + "/" + longest + ".wsp"} {
			if !carbon.Has("Denali", file) {
				return fmt.Errorf("there is no %s; statsd said %q", file, statsd.Stderr.Text())
			}
		}
		return nil
	})
	if got := fmt.Sprint(d.AwaitUp(t).Lines["statsd"].Dropped); got != "map[bad_path:9]" {
		t.Errorf("dropped: %s, want 9 bad_path", got)
	}
	if log := carbon.Stdout.Text(); strings.Contains(log, "Error creating") || strings.Contains(log, "Error writing") {
		t.Error("carbon-cache could not store one that came")
	}
}
