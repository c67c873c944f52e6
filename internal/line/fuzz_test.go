package line

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/prefixproxy/prefixproxy/internal/serverpath"
)

// The twins below are slow and obvious: they read the rules once more, in
// strings and regular expressions, and share no code with what they check.

const number = `([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?`

var (
	rateField = regexp.MustCompile(`\|@([^|:]*)`)
	plain     = regexp.MustCompile(`^` + number + `$`)
	positive  = regexp.MustCompile(`^[^eE]*[1-9]`)
	decimal   = regexp.MustCompile(`^[-+]?` + number + `$`)
	infinity  = regexp.MustCompile(`^[-+]?(?i:inf|infinity)$`)

	// deadly is what JavaScript takes for a number (a little stretched: what
	// starts like one) and statsd's regular expression does not.
	deadly = regexp.MustCompile(`^(\+|[\s\v\p{Z}\x{feff}]+[-+]?)([0-9.]|Infinity|$)|^Infinity`)
)

func twinCutLine(data string) (line, rest string, ok bool) {
	line, rest, ok = strings.Cut(data, "\n")
	if !ok {
		return "", data, false
	}
	return strings.TrimSuffix(line, "\r"), rest, true
}

func twin(r Rules, p Protocol, name, line string) (out string, result Result) {
	if strings.Trim(line, " \t") == "" {
		return "", Empty
	}
	if strings.ContainsFunc(line, func(c rune) bool { return c != '\t' && c < ' ' || c == '\x7f' }) {
		return "", Control
	}
	if p == Carbon {
		return twinCarbon(r, name, line)
	}
	out, result = twinStatsD(r, name, line)
	if result.Appended() && result != Held && twinMisread(r, name, strings.TrimSuffix(out, "\n"), result) {
		return "", BadPath
	}
	return out, result
}

// twinMisread says whether statsd's TCP server makes another line, or more lines, of
// one that leaves, in a way that matters.
func twinMisread(r Rules, name, line string, result Result) bool {
	if strings.IndexFunc(line, func(c rune) bool { return c >= 0x80 }) < 0 {
		return false
	}
	ascii := []byte(line)
	for i := range ascii {
		ascii[i] &= 0x7f
	}
	for i, packet := range strings.Split(string(ascii), "\n") {
		for _, rate := range rateField.FindAllStringSubmatch(packet, -1) {
			if deadly.MatchString(rate[1]) {
				return true
			}
		}
		path, _, ok := strings.Cut(packet, ":")
		if ok && twinCounts(packet) && !twinKept(packet) {
			return true
		}
		if !ok || !twinCounts(packet) {
			continue
		}
		matters := i == 0 && result != Free && twinIsForeign(r, StatsD, name, path) || (i > 0 || result == Free) && twinMatters(r, StatsD, name, path)
		if matters || i > 0 && r.Unmatched != ForwardUnmatched {
			return true
		}
	}
	return false
}

func twinStatsD(r Rules, name, line string) (string, Result) {
	if strings.HasPrefix(line, "_e{") || strings.HasPrefix(line, "_sc|") {
		for _, rate := range rateField.FindAllStringSubmatch(line, -1) {
			if deadly.MatchString(rate[1]) {
				return "", BadRate
			}
		}
		if path, _, ok := strings.Cut(line, ":"); ok && twinCounts(line) && (twinMatters(r, StatsD, name, path) || !twinKept(line) || !twinTaggable(line)) {
			return "", BadPath
		}
		if len(line) > 16384 {
			return "", TooLong
		}
		return line + "\n", Free
	}
	path, metrics, ok := strings.Cut(line, ":")
	if !ok {
		return "", NoValue
	}
	if path == "" || path[0] == ';' {
		return "", EmptyPath
	}
	if !twinCounts(line) {
		return "", NoValue
	}
	for _, rate := range rateField.FindAllStringSubmatch(metrics, -1) {
		if !plain.MatchString(rate[1]) || !positive.MatchString(rate[1]) {
			return "", BadRate
		}
	}
	out, result := twinRewrite(r, StatsD, name, path, line)
	if result.Appended() && result != Held && (!twinKept(strings.TrimSuffix(out, "\n")) || !twinTaggable(line)) {
		return "", BadPath
	}
	return out, result
}

// twinCounts is statsd's handlePacket and is_valid_packet: whether any metric
// of the line is taken, were all its values numbers and its rates good.
func twinCounts(line string) bool {
	bits := strings.Split(strings.Split(line, "|#")[0], ":")
	for _, bit := range bits[1:] {
		fields := strings.Split(bit, "|")
		if len(fields) > 1 && (fields[1] == "s" || fields[0] != "") {
			return true
		}
	}
	return false
}

func twinCarbon(r Rules, name, line string) (string, Result) {
	if !utf8.ValidString(line) {
		return "", BadUTF8
	}
	fields := strings.FieldsFunc(line, func(c rune) bool { return c == ' ' || c == '\t' })
	if len(fields) != 3 {
		return "", BadFields
	}
	if path := strings.TrimLeftFunc(fields[0], twinBlank); path == "" || path[0] == ';' {
		return "", EmptyPath
	}
	if !decimal.MatchString(fields[1]) && !infinity.MatchString(fields[1]) {
		return "", BadValue
	}
	seconds, _ := strconv.ParseFloat(fields[2], 64)
	seconds = math.Trunc(seconds)
	if !decimal.MatchString(fields[2]) || seconds != -1 && (seconds < 0 || seconds > 1<<32-1) {
		return "", BadTimestamp
	}
	if seconds == -1 {
		fields[2] = fmt.Sprint(now)
	}
	out, result := twinRewrite(r, Carbon, name, fields[0], strings.Join(fields, " "))
	if leaves, _, _ := strings.Cut(out, " "); result.Appended() && result != Held && (!twinStorable(leaves) || !serverpath.Taggable(leaves)) {
		return "", BadPath
	}
	return out, result
}

func twinBlank(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' }

// twinStorable says whether the file that carbon would have for a path can be.
func twinStorable(path string) bool {
	metric, ok := serverpath.Carbon(path + " 1 1")
	if !ok {
		metric = strings.TrimFunc(path, unicode.IsSpace) // it is refused there
	}
	if serverpath.IsTagged(metric) {
		return true
	}
	return storable(metric)
}

// twinTaggable says whether graphite-web can read the tags in the name of a line, as statsd writes
// them.
func twinTaggable(line string) bool {
	name, _, _ := strings.Cut(line, ":")
	_, tags, ok := strings.Cut(serverpath.StatsD(name+":", false)[0].Key, ";")
	return !ok || serverpath.Taggable("x;"+tags)
}

// twinKept says whether a carbon behind statsd has a file for what statsd makes of a line.
func twinKept(line string) bool {
	bits, tags, _ := strings.Cut(line, "|#")
	name, _, _ := strings.Cut(bits, ":")
	key := serverpath.StatsD(line, false)[0].Key
	return len(name)+len(tags) <= MaxLen-300 && twinStorable(key)
}

func storable(metric string) bool {
	nodes := strings.FieldsFunc(metric, func(c rune) bool { return c == '.' || c == '/' })
	return len(metric) <= 4000 && len(nodes) <= 950 && !slices.ContainsFunc(nodes, func(n string) bool { return len(n) > 250 })
}

// twinPaths returns what the server, and others, may read as the nodes of a name.
func twinPaths(p Protocol, name string) (paths []string) {
	for _, raw := range twinRaw(p, name) {
		if p == StatsD {
			paths = append(paths, serverpath.Nodes(serverpath.StatsD(raw+":", false)[0].Key))
		} else {
			raw = strings.TrimLeftFunc(raw, twinBlank)
			paths = append(paths, serverpath.Nodes(strings.TrimLeft(raw, "~")))
		}
	}
	return paths
}

// twinRaw returns the parts of a name that may be its path.
func twinRaw(p Protocol, name string) []string {
	cut := func(chars string) string {
		if i := strings.IndexAny(name, chars); i >= 0 {
			return name[:i]
		}
		return name
	}
	if p == StatsD {
		return []string{cut(";"), cut(";,#[")}
	}
	name = strings.TrimRightFunc(name, unicode.IsSpace)
	if strings.HasSuffix(name, `"}`) {
		name = cut("{")
	}
	return []string{cut(";,#[")}
}

func startsWith(path, prefix string) bool { return strings.HasPrefix(path+".", prefix+".") }

func twinTo(r Rules, p Protocol, name string) string {
	return twinPaths(p, strings.ReplaceAll(r.To, "{name}", name))[0]
}

// twinMatters says whether a path that leaves as it is, without being bound to the
// name, would be somebody's or cost others.
func twinMatters(r Rules, p Protocol, name, path string) bool {
	for _, read := range twinPaths(p, path) {
		for _, n := range r.Names {
			own := n == name && (r.Unmatched != ForwardUnmatched || startsWith(twinTo(r, p, n), twinPaths(p, r.From)[0]))
			if !own && startsWith(read, twinTo(r, p, n)) {
				return true
			}
		}
	}
	return strings.HasPrefix(twinPaths(p, path)[0], twinPaths(p, r.From)[0]+".") || r.Unmatched == ForwardUnmatched && twinCosts(p, path)
}

// twinIsForeign says whether a path is under the name of another host.
func twinIsForeign(r Rules, p Protocol, name, path string) bool {
	return slices.ContainsFunc(r.Names, func(n string) bool {
		return n != name && slices.ContainsFunc(twinPaths(p, path), func(read string) bool { return startsWith(read, twinTo(r, p, n)) })
	})
}

// twinCosts says whether a path costs others, as it is.
func twinCosts(p Protocol, path string) bool {
	if strings.HasPrefix(twinPaths(p, path)[0], "_tagged.") {
		return true
	}
	if p == Carbon || path == "" {
		return false
	}
	return serverpath.StatsD(path+":1|ms", false)[0].Kills()
}

// twinCut returns how many bytes of a name spell prefix, which it starts with, and the
// separators behind it.
func twinCut(p Protocol, name, prefix string) (cut int) {
	isSeparator := func(c byte) bool { return c == '.' || c == '/' && p == Carbon }
	for !isSeparator(name[cut]) || twinPaths(p, name[:cut+1])[0] != prefix+"." {
		cut++
	}
	for cut < len(name) && isSeparator(name[cut]) {
		cut++
	}
	return cut
}

// twinRewrite does what follows from path, with tags, to the line it starts.
func twinRewrite(r Rules, p Protocol, name, path, line string) (string, Result) {
	from := twinPaths(p, r.From)[0]
	reads := twinPaths(p, path)
	matched := strings.HasPrefix(reads[0], from+".")
	var mine, theirs string // the name that the path is under
	longest := 16384
	for _, n := range r.Names {
		for _, read := range reads {
			switch {
			case !startsWith(read, twinTo(r, p, n)):
			case n == name:
				mine = n
			case theirs == "":
				theirs = n
			}
		}
		longest = max(longest, 16384+len(r.From)-len(strings.ReplaceAll(r.To, "{name}", n)))
	}
	to := func(n string) string { return strings.ReplaceAll(r.To, "{name}", n) }
	out, plain, result := line, len(line), Free // plain: how long it would be, spelled plainly
	if matched {
		rest := line[twinCut(p, path, from):]
		out, plain = r.From+"."+rest, len(r.From+"."+rest)
		if name != "" {
			out = to(name) + "." + rest
		}
	}
	switch {
	case theirs != "" && name == "":
		out, plain, result = line, len(line), Held
	case theirs != "":
		plain, result = len(line), ForeignName
	case matched && name == "":
		result = Held
	case matched:
		result = Rewritten
	case r.Unmatched == PrefixUnmatched:
		if p == Carbon {
			out = strings.TrimLeftFunc(line, twinBlank)
		}
		plain, result = len(out), Held
		if name != "" {
			out, result = to(name)+"."+out, Rewritten
		}
	case r.Unmatched == DropUnmatched:
		result = UnmatchedPath
	case twinCosts(p, path):
		result = BadPath
	case mine != "":
		result = Named
	}
	if plain > longest || result != Held && result.Appended() && len(out) > 16384 {
		return "", TooLong
	}
	if !result.Appended() {
		return "", result
	}
	return out + "\n", result
}

// fuzzRules are the rules that fuzzing chooses from.
var fuzzRules = []Rules{
	rules("host", "{name}", ForwardUnmatched),
	rules("host", "{name}", PrefixUnmatched),
	rules("host", "{name}", DropUnmatched),
	rules("a.host", "servers.{name}-x.os", ForwardUnmatched),
	rules("servers", "servers.{name}", ForwardUnmatched),
	rules("servers", "servers.{name}", DropUnmatched),
	rules("a.very.long.prefix", "{name}", ForwardUnmatched),
	{From: "h", To: "{name}", Unmatched: ForwardUnmatched, Names: []string{"Denali", "denali", "K2", "k2", "K", "K-2", "K_2", "K21"}}, // which look alike
}

// oddPaths are spellings of paths that matter, for seeds.
var oddPaths = []string{
	".MtLogan.x", "/MtLogan.x", "./MtLogan.x", "MtLogan/x", "\u00a0MtLogan.x", "\u2003host.x", "\u0085host.x", "\ufeffhost.x", "host.x\u00a0",
	"~host.x", "\ufeff~", "~~.MtLogan.x", ".~host.x", "MtLogan{a=\"b\"}", "MtLogan{a=\"b\",c=\"d\"}\u00a0", "host.x{a=\"b\"}", "MtLogan;name=q", "{a=\"b\"}",
	"servers..MtLogan.a", "servers/K2/a", "a..host.x", "a/host/x", "(MtLogan.a", "@host.f", "Mt(Log)an.x", "Pico/de Orizaba.x",
	"ho,st.x", "Mt,Logan.x", "#host.x", "[MtLogan].x", "host..x", "host//x", "host/./x", "_tagged.a.b.c", "constructor", "(toString)", "__proto__",
	"\xcdtLogan.x", "\xe8\xef\xf3\xf4.x", "x\x8ahost.y", "constructo\xf2", "Den/ali.x", "/Denali/x", "(Denali", "Denali{a=\"b\"}", "K#2", "K,2.x", "K\xba2",
}

// fuzzNames are the names that fuzzing holds, with the one that is none first.
var fuzzNames = []string{"", "Denali", "K2"}

// fuzzRewriters returns a Rewriter for each of fuzzRules and fuzzNames.
func fuzzRewriters(p Protocol) (ws [][]*Rewriter) {
	for _, r := range fuzzRules {
		var row []*Rewriter
		for _, name := range fuzzNames {
			row = append(row, r.Rewriter(p, name))
		}
		ws = append(ws, row)
	}
	return ws
}

// checkLine holds each of ws, which fuzzRewriters has made, against the twin.
func checkLine(t *testing.T, p Protocol, ws [][]*Rewriter, line []byte) {
	line = tight(line)
	original := bytes.Clone(line)
	for i, r := range fuzzRules {
		held, heldResult := ws[i][0].Append(nil, line, now)
		for j, name := range fuzzNames {
			w := ws[i][j]
			out, result := appendLine(t, w, []byte("before\n"), line)
			got, kept := strings.CutPrefix(string(out), "before\n")
			if !kept {
				t.Fatalf("%q changed what stood before it: %q", line, out)
			}
			want, wantResult := twin(r, p, name, string(line))
			if got != want || result != wantResult {
				t.Fatalf("%+v, name %q: %q came out as %q, %v; want %q, %v", r, name, line, got, result, want, wantResult)
			}
			if result.Appended() != (got != "") || result.Appended() && strings.IndexByte(got, '\n') != len(got)-1 {
				t.Fatalf("%q came out as %q, %v", line, got, result)
			}
			if result.Appended() && result != Held {
				checkServers(t, r, p, name, strings.TrimSuffix(got, "\n"), result)
			}
			if p == Carbon {
				checkSince(t, w, line, got, result)
			}
			again, againResult := held, heldResult
			if heldResult == Held {
				again, againResult = w.Append(nil, held[:len(held)-1], now)
			}
			if name != "" && (string(again) != got || againResult != result) {
				t.Fatalf("%+v: %q, held and then named %s, came out as %q, %v; want %q, %v", r, line, name, again, againResult, got, result)
			}
		}
	}
	if !bytes.Equal(line, original) {
		t.Fatalf("%q became %q: it is only lent", original, line)
	}
}

// checkSince says that with a floor w does the same with line as without, got
// and result, but for lines of before that are bound to the name.
func checkSince(t *testing.T, w *Rewriter, line []byte, got string, result Result) {
	if !result.Appended() {
		return
	}
	fields := strings.Fields(got)
	seconds, _ := strconv.ParseFloat(fields[len(fields)-1], 64)
	for _, floor := range []int64{now, 1763848800, 2, 1e10, math.MinInt64} {
		out, since := appendLine(t, w.Since(floor), nil, line)
		want, wantResult := got, result
		if result <= Named && floor > math.MinInt64 && math.Trunc(seconds) < float64(floor) {
			want, wantResult = "", Earlier
		}
		if string(out) != want || since != wantResult {
			t.Fatalf("%q with floor %d came out as %q, %v; want %q, %v", line, floor, out, since, want, wantResult)
		}
	}
	if at := float64(Timestamp(line, now)); at != math.Trunc(seconds) && math.Abs(seconds) < math.MaxInt64 {
		t.Fatalf("%q: time %v, want %v", line, at, seconds)
	}
}

// checkServers says that out, which left, ends up in nobody else's series, not under
// from, under our own name only if it is bound to it, and that no statsd ends.
func checkServers(t *testing.T, r Rules, p Protocol, name, out string, result Result) {
	metrics := []string{out}
	if p == StatsD {
		metrics = nil
		for _, byTCP := range []bool{false, true} {
			for _, packet := range serverpath.StatsD(out, byTCP) {
				if packet.Kills() {
					t.Fatalf("%q ends statsd (by TCP: %v)", out, byTCP)
				}
				if _, ok := packet.Counts(); ok {
					metrics = append(metrics, packet.Key+" 1 1")
				}
			}
		}
	}
	for _, metric := range metrics {
		series, ok := serverpath.Carbon(metric)
		if !ok {
			continue
		}
		at := serverpath.Nodes(serverpath.Name(series))
		if name != "" && startsWith(at, twinTo(r, p, name)) {
			if result == Free && r.Unmatched == ForwardUnmatched {
				t.Fatalf("%+v, name %s: %q is under our name, and not bound to it", r, name, out)
			}
			continue
		}
		for _, n := range r.Names {
			if startsWith(at, twinTo(r, p, n)) {
				t.Fatalf("%+v, name %s: %q is %q, under the name %s", r, name, out, at, n)
			}
		}
		if strings.HasPrefix(at, twinPaths(p, r.From)[0]+".") {
			t.Fatalf("%+v, name %s: %q is %q, under from", r, name, out, at)
		}
	}
}

func FuzzCut(f *testing.F) {
	for _, s := range []string{"", "\n", "\r\n", "a\nb\n", "a\r\r\nb", "a\rb", "\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = tight(data)
		line, rest, ok := Cut(data)
		wantLine, wantRest, wantOK := twinCutLine(string(data))
		if string(line) != wantLine || string(rest) != wantRest || ok != wantOK {
			t.Fatalf("Cut(%q) = %q, %q, %v; want %q, %q, %v", data, line, rest, ok, wantLine, wantRest, wantOK)
		}
	})
}

// seed adds the lines of both tables, and some that fuzzRules look at.
func seed(f *testing.F) {
	for _, row := range slices.Concat(statsdRows, carbonRows) {
		f.Add([]byte(row.line))
	}
	for _, path := range oddPaths {
		f.Add([]byte(path + ":1|c"))
		f.Add([]byte(path + " 1 2"))
	}
	for _, path := range []string{"a.host", "a.host.x;a=b", "servers", "servers.x", "servers.K2", "servers.K2-x.os.a", "servers.Denali-x.os,a",
		"servers.MtLogan.a", "Denali", "K2.a[b]", "Pico-de_Orizaba.a#b", "a.very.long.prefix.x"} {
		f.Add([]byte(path + ":1|c"))
		f.Add([]byte(path + " 1 2"))
	}
}

func FuzzStatsD(f *testing.F) {
	seed(f)
	ws := fuzzRewriters(StatsD)
	f.Fuzz(func(t *testing.T, line []byte) { checkLine(t, StatsD, ws, line) })
}

func FuzzCarbon(f *testing.F) {
	seed(f)
	ws := fuzzRewriters(Carbon)
	f.Fuzz(func(t *testing.T, line []byte) { checkLine(t, Carbon, ws, line) })
}

// What carbon takes for tags, and stores under a hash, series takes for them.
func FuzzSeries(f *testing.F) {
	for _, path := range append([]string{`a{b="c",d="e"}`, `a{b="\"\\"}`, `a{b="c":,d="e"}`, `a{b="c",}`, `a{b="c"}d"}`, `a;b`, `a;name=;b=c`, `a{name="x",name="y"}`, `a{=b="c"}`,
		`a;name=~`, `~{b="c"}`, `~;name=x`, `a{b="~c"}`, `a{b="c;"}`, `{b="c"}`, `;x{b="c"}`, `a;name=x{b="c"}`}, oddPaths...) {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, path string) {
		metric, isOne := serverpath.Carbon(path + " 1 1")
		if !isOne || strings.ContainsFunc(path, func(c rune) bool { return c <= ' ' }) {
			return
		}
		got, tagged, ok := series([]byte(path))
		if ok != serverpath.Taggable(path) || ok && (tagged != serverpath.IsTagged(metric) || !tagged && string(got) != metric) {
			t.Fatalf("%q: got %q, tagged %v, %v; carbon makes %q of it", path, got, tagged, ok, metric)
		}
	})
}

// Around MaxLen the twins agree for every rule and name. It is no seed, because
// the fuzzer would spend its time on shortening it.
func TestLengths(t *testing.T) {
	statsd, carbon := fuzzRewriters(StatsD), fuzzRewriters(Carbon)
	paths := []string{"host.", "a.very.long.prefix.", "K2."}
	for n := MaxLen - 20; n <= MaxLen+20; n++ {
		path := paths[n%len(paths)] // the twins are slow
		checkLine(t, StatsD, statsd, []byte(pad(n, path, ":1|c")))
		checkLine(t, Carbon, carbon, []byte(pad(n, path+"x;a=", "\t 1 -1")))
	}
}
