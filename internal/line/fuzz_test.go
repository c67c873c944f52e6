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
	"unicode/utf8"
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
	deadly = regexp.MustCompile(`^(\+|[\s\v\p{Z}\x{85}\x{feff}]+[-+]?)([0-9.]|Infinity|$)|^Infinity`)
)

func twinCut(data string) (line, rest string, ok bool) {
	line, rest, ok = strings.Cut(data, "\n")
	if !ok {
		return "", data, false
	}
	return strings.TrimSuffix(line, "\r"), rest, true
}

func twin(r Rules, p Protocol, name, line string) (out string, result Result) {
	if line == "" {
		return "", Empty
	}
	if strings.ContainsFunc(line, func(c rune) bool { return c != '\t' && c < ' ' || c == '\x7f' }) {
		return "", Control
	}
	if p == Carbon {
		return twinCarbon(r, name, line)
	}
	return twinStatsD(r, name, line)
}

func twinStatsD(r Rules, name, line string) (string, Result) {
	if strings.HasPrefix(line, "_e{") || strings.HasPrefix(line, "_sc|") {
		for _, rate := range rateField.FindAllStringSubmatch(line, -1) {
			if deadly.MatchString(rate[1]) {
				return "", BadRate
			}
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
	if strings.IndexAny(path+";", ";,#[") == 0 {
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
	return twinRewrite(r, name, path, line)
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
	if strings.IndexAny(fields[0], ";,#[") == 0 {
		return "", EmptyPath
	}
	if !decimal.MatchString(fields[1]) && !infinity.MatchString(fields[1]) {
		return "", BadValue
	}
	seconds, _ := strconv.ParseFloat(fields[2], 64)
	if !decimal.MatchString(fields[2]) || math.IsInf(seconds, 0) {
		return "", BadTimestamp
	}
	if math.Trunc(seconds) == -1 {
		fields[2] = fmt.Sprint(now)
	}
	return twinRewrite(r, name, fields[0], strings.Join(fields, " "))
}

// twinRewrite does what follows from path, with tags, to the line it starts.
func twinRewrite(r Rules, name, path, line string) (string, Result) {
	if i := strings.IndexAny(path, ";,#["); i >= 0 {
		path = path[:i]
	}
	startsWith := func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+".") }
	to := func(n string) string { return strings.ReplaceAll(r.To, "{name}", n) }
	matched := strings.HasPrefix(path, r.From+".")
	own, foreign, longest := false, false, 16384
	for _, n := range r.Names {
		own = own || n == name && startsWith(to(n))
		foreign = foreign || n != name && startsWith(to(n))
		longest = max(longest, 16384+len(r.From)-len(to(n)))
	}

	if len(line) > longest {
		return "", TooLong
	}
	out, result := line, Free
	switch {
	case foreign && name != "":
		return "", ForeignName
	case foreign, name == "" && (matched || r.Unmatched == PrefixUnmatched):
		return line + "\n", Held
	case matched:
		out, result = to(name)+strings.TrimPrefix(line, r.From), Rewritten
	case r.Unmatched == PrefixUnmatched:
		out, result = to(name)+"."+line, Rewritten
	case r.Unmatched == DropUnmatched:
		return "", UnmatchedPath
	case own:
		result = Named
	}
	if len(out) > 16384 {
		return "", TooLong
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
			out, result := w.Append([]byte("before\n"), line, now)
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
			if p == StatsD && result.Appended() {
				checkTail(t, r, string(line), strings.TrimSuffix(got, "\n"))
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
		out, since := w.Since(floor).Append(nil, line, now)
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

// checkTail says that out is line but for a prefix: nothing behind it changed.
func checkTail(t *testing.T, r Rules, line, out string) {
	if !strings.HasSuffix(out, strings.TrimPrefix(line, r.From)) {
		t.Fatalf("%q came out as %q: more than the path's start changed", line, out)
	}
}

func FuzzCut(f *testing.F) {
	for _, s := range []string{"", "\n", "\r\n", "a\nb\n", "a\r\r\nb", "a\rb", "\r"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = tight(data)
		line, rest, ok := Cut(data)
		wantLine, wantRest, wantOK := twinCut(string(data))
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

// Around MaxLen the twins agree for every rule and name. It is no seed, because
// the fuzzer would spend its time on shortening it.
func TestLengths(t *testing.T) {
	statsd, carbon := fuzzRewriters(StatsD), fuzzRewriters(Carbon)
	for n := MaxLen - 20; n <= MaxLen+20; n++ {
		for _, path := range []string{"host.", "a.very.long.prefix.", "K2."} {
			checkLine(t, StatsD, statsd, []byte(pad(n, path, ":1|c")))
			checkLine(t, Carbon, carbon, []byte(pad(n, path, "\t 1 -1")))
		}
	}
}
