package line

import (
	"bytes"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// now is when every test happens, in Unix seconds.
const now = 1763848800

// names is the list that tests rewrite with; Denali is ours.
var names = []string{"Denali", "MtLogan", "Pico-de_Orizaba", "K2"}

func rules(from, to string, unmatched Unmatched) Rules {
	return Rules{From: from, To: to, Unmatched: unmatched, Names: names}
}

var hostRules = rules("host", "{name}", ForwardUnmatched)

// a row is a line, and what becomes of it; want is what leaves, without its
// '\n', and has no meaning where nothing does.
type row struct {
	line, want string
	result     Result
}

// same is a row of a line that leaves as it came, or does not leave.
func same(line string, result Result) row { return row{line, line, result} }

func checkRows(t *testing.T, w *Rewriter, rows []row) {
	t.Helper()
	for _, r := range rows {
		want := r.want + "\n"
		if !r.result.Appended() {
			want = ""
		}
		got, result := appendLine(t, w, []byte("before\n"), tight([]byte(r.line)))
		if after, ok := strings.CutPrefix(string(got), "before\n"); !ok || after != want || result != r.result {
			t.Errorf("%.100q came out as %.100q, %v; want %.100q, %v", r.line, after, result, want, r.result)
		}
	}
}

// appendLine is w.Append, and says that w.AppendPlain does the same if it takes the line.
func appendLine(t *testing.T, w *Rewriter, dst, line []byte) ([]byte, Result) {
	t.Helper()
	out, result := w.Append(dst, line, now)
	if bytes.IndexByte(line, '\n') >= 0 {
		return out, result
	}
	data := tight(append(line, '\n'))
	want, wantRest, wantLines, wantRewritten := out, "", 1, 0
	if result == Rewritten {
		wantRewritten = 1
	}
	got, rest, lines, rewritten := w.AppendPlain(tight(dst), data, math.MaxInt)
	if lines == 0 {
		want, wantRest, wantLines, wantRewritten = dst, string(data), 0, 0
	}
	if !bytes.Equal(got, want) || string(rest) != wantRest || lines != wantLines || rewritten != wantRewritten || lines > 0 && result > Free {
		t.Fatalf("AppendPlain made of %.100q: %q, %q, %d and %d lines; Append: %q, %v", data, got, rest, lines, rewritten, out, result)
	}
	return out, result
}

// tight returns b in memory that ends with it.
func tight(b []byte) []byte { return slices.Clip(slices.Clone(b)) }

// pad returns a line of n bytes: before, as many x as it takes, after.
func pad(n int, before, after string) string {
	return before + strings.Repeat("x", n-len(before)-len(after)) + after
}

// What becomes of StatsD's lines, by hostRules, while the name is Denali.
var statsdRows = []row{
	{"host.cpu:1|c", "Denali.cpu:1|c", Rewritten},
	{"host.a.b.c:1|c", "Denali.a.b.c:1|c", Rewritten},
	{"host.:1|c", "Denali.:1|c", Rewritten},
	{"host..:1|c", "Denali.:1|c", Rewritten},
	{"host.host.cpu:1|c", "Denali.host.cpu:1|c", Rewritten},
	{"host.a b/c\td:1|c", "Denali.a b/c\td:1|c", Rewritten},
	{"host.größe:1|c", "Denali.größe:1|c", Rewritten},
	{"host.\xff\xfe:1|c", "Denali.\xff\xfe:1|c", Rewritten}, // UTF-8 is Carbon's business

	// `from` matches whole leading nodes only.
	same("host:1|c", Free),
	same("hostess.cpu:1|c", Free),
	same("app.host.cpu:1|c", Free),
	same("HOST.cpu:1|c", Free),
	same(" host.cpu:1|c", Free), // statsd: _host.cpu
	same("a..b:1|c", Free),
	same("a/b:1|c", Free),

	// Tags end the path, and are not looked into.
	{"host.cpu;dc=x:1|c", "Denali.cpu;dc=x:1|c", Rewritten},
	{"host.cpu,dc=x:1|c", "Denali.cpu,dc=x:1|c", Rewritten},
	{"host.cpu#dc=x:1|c", "Denali.cpu#dc=x:1|c", Rewritten},
	{"host.cpu[dc=x]:1|c", "Denali.cpu[dc=x]:1|c", Rewritten},
	same("host;dc=a.b:1|c", Free),
	same("app;a=host.cpu:1|c", Free),

	// Only the path changes.
	{"host.cpu:1|c|@0.1|#host.a:host.b", "Denali.cpu:1|c|@0.1|#host.a:host.b", Rewritten},
	{"host.cpu:1|ms|#a,b:c|c:in-1a2b|T1763848800", "Denali.cpu:1|ms|#a,b:c|c:in-1a2b|T1763848800", Rewritten},
	{"host.cpu:1:2:3|ms", "Denali.cpu:1:2:3|ms", Rewritten},
	{"host.cpu:1|c:2|c|@0.5:3|g", "Denali.cpu:1|c:2|c|@0.5:3|g", Rewritten},
	{"host.cpu:+1|g", "Denali.cpu:+1|g", Rewritten},
	{"host.cpu:-1|g", "Denali.cpu:-1|g", Rewritten},
	{"host.users:some user@example|s", "Denali.users:some user@example|s", Rewritten},
	{"host.cpu:1|c|e:host.cpu", "Denali.cpu:1|c|e:host.cpu", Rewritten},

	// Events and service checks have no path.
	same("_e{5,4}:title|text|#host.a", Free),
	same("_e{5,4}:title|@home we go", Free),
	same("_e{", Free),
	same("_sc|host.check|0|m:host.b", Free),
	same("_e{1,1}:1|c|@+1", BadRate), // statsd would die of it, event or not
	same("_e{1,1}:1|c|@ ", BadRate),
	same("_e{1,1}:1|c|@Infinity", BadRate),
	same("_sc|a:1|c|@\u00a01", BadRate),
	same("_sc|a:1|c|@\ufeff1", BadRate),
	same("_e{1,1}:1|c|@-1|@0x1|@.5|@|@ home|@+home", Free), // it lives
	same("_e:1|c", Free),                                   // a name like another
	same("_sc:1|c", Free),

	// Nobody writes under another's name.
	same("MtLogan.cpu:1|c", ForeignName),
	same("MtLogan:1|c", ForeignName),
	same("MtLogan;a=b:1|c", ForeignName),
	same("MtLogan#a.b:1|c", ForeignName),
	same("K2.x:1|c", ForeignName),
	same("Pico-de_Orizaba.x:1|c", ForeignName),
	same("MtLoganberry.cpu:1|c", Free),
	same("mtlogan.cpu:1|c", Free),
	same("app.MtLogan.cpu:1|c", Free),
	same("Denali.cpu:1|c", Named),
	same("Denali:1|c", Named),
	{"host.MtLogan.cpu:1|c", "Denali.MtLogan.cpu:1|c", Rewritten},

	// Control bytes.
	same("host.cpu:1|c\r", Control),
	same("host\x00.cpu:1|c", Control),
	same("host.cpu:1\x1f|c", Control),
	same("host.cpu\x7f:1|c", Control),
	same("\x1b_e{1,1}:a|b", Control),
	same("_e{1,1}:a|b\x07", Control),

	// Paths that are not there.
	same(":1|c", EmptyPath),
	same(":", EmptyPath),
	same(";dc=x:1|c", EmptyPath),
	same("#dc:1|c", Free), // statsd: dc
	same(",x.y:1|c", Free),
	same("[a].b:1|c", Free),

	// No value and type.
	same("x", NoValue),
	same("x:", NoValue),
	same("x:1", NoValue),
	same("x:|", NoValue),
	same("x:|c", NoValue),
	same("x|c", NoValue),
	same("x:1:2", NoValue),
	same("x:1:|c", NoValue),
	same("x:1|#tag", NoValue), // statsd cuts at "|#" first
	same("x|#tag:1|c", NoValue),
	same("x:|c|#a:1|c", NoValue),
	same("x:|sum", NoValue),
	same("host.cpu 3.4 1763848800", NoValue),
	same("x:1|", Free), // statsd: a counter
	same("x:|s", Free), // statsd: a set that gets '0'
	same("x:|s|#a", Free),
	same("x:|c:1|c", Free), // statsd skips the first only
	same("x::1|c", Free),
	same("x|y:1|c", Free),
	same("x:one|c", Free), // refused by statsd, alone and without harm
	same("x:1|unheard-of", Free),

	// Sample rates.
	same("x:1|c|@1", Free),
	same("x:1|c|@0.25", Free),
	same("x:1|c|@.5", Free),
	same("x:1|c|@1.", Free),
	same("x:1|c|@1e-3", Free),
	same("x:1|c|@1.5E+2", Free),
	same("x:1|c|@00.10|#a", Free),
	same("x:a@+1|s", Free),
	same("x:1|c|#by:joe@+1", Free),
	same("x|@+1:1|c", Free), // a part of the name
	same("x:1|c|@", BadRate),
	same("x:1|c|@.", BadRate),
	same("x:1|c|@+1", BadRate),
	same("x:1|c|@-1", BadRate),
	same("x:1|c|@0", BadRate),
	same("x:1|c|@0.0", BadRate),
	same("x:1|c|@0e5", BadRate),
	same("x:1|c|@1e", BadRate),
	same("x:1|c|@1e+", BadRate),
	same("x:1|c|@1e1.5", BadRate),
	same("x:1|c|@ 1", BadRate),
	same("x:1|c|@1 ", BadRate),
	same("x:1|c|@0x1", BadRate),
	same("x:1|c|@1_0", BadRate),
	same("x:1|c|@Infinity", BadRate),
	same("x:1|c|@nan", BadRate),
	same("x:1|c|@0.5|@+1", BadRate),
	same("x:1|c|#a|@+1", BadRate),
	same("x:1|c|@0.5:2|c|@+1", BadRate),
	same("x:1|@+1", BadRate),
	same("x:1|@", BadRate),
	same("x:1||@", BadRate),
	same("x:1|c|@@1", BadRate),

	same("", Empty),
	same(" ", Empty),
	same(" \t ", Empty),

	// What a real statsd makes of a path: it cuts what it doesn't know, makes a '_'
	// of blanks and a '-' of '/'; the carbon behind it cuts dots in front.
	{".host.x:1|c", "Denali.x:1|c", Rewritten},
	{"..host..x..y:1|c", "Denali.x..y:1|c", Rewritten},
	{"(host).x:1|c", "Denali.x:1|c", Rewritten},
	{"@host.f:1|c", "Denali.f:1|c", Rewritten},
	{"ho,st.x,y.z:1|c", "Denali.x,y.z:1|c", Rewritten},
	{"\u0085host.x:1|c", "Denali.x:1|c", Rewritten},
	{"\xffhost.x:1|c", "Denali.x:1|c", Rewritten},
	{"h\u00e9ost.x|y:1|c", "Denali.x|y:1|c", Rewritten},
	same("\u00a0host.x:1|c", Free), // _host.x
	same("\ufeffhost.x:1|c", Free), // _host.x
	same("host/x:1|c", Free),       // host-x
	same("(host:1|c", Free),        // a bare host
	same("(MtLogan.a:1|c", ForeignName),
	same("MtLogan(:1|c", ForeignName),
	same("Mt,Logan.a:1|c", ForeignName),
	same("Mt|Logan.a:1|c", ForeignName),
	same("MtLogan,dc=x:1|c", ForeignName), // where others have their tags
	same("'MtLogan'.a:1|c", ForeignName),
	same("Pico/de Orizaba.a:1|c", ForeignName),
	same("Pico/de\u2003Orizaba.a:1|c", ForeignName),
	same("Pico/de  \u2003 Orizaba.a:1|c", ForeignName),
	same("Pico/de ( Orizaba.a:1|c", Free), // two runs of blanks
	same("MtLogan/a:1|c", Free),
	same("~MtLogan.a:1|c", ForeignName),
	same("%4dtLogan.a:1|c", Free),
	same("(Denali.a:1|c", Named),
	same("Denali(;a=b:1|c", Named),

	// Its TCP server reads ASCII, by cutting the highest bit.
	same("\xcdtLogan.a:1|c", BadPath),
	same("\xe8\xef\xf3\xf4.a:1|c", BadPath),
	same("\xc4enali.a:1|c", BadPath),
	same("x:1|c|#\x8aMtLogan.a:1|c", BadPath),
	same("host.x:1|s\x8ahost.a:1|c", BadPath),
	same("x:1|c|#\x8ay:1|c\xfc@\xab1", BadPath),
	same("_e{1,1}:a|b\x8aMtLogan.a:1|c", BadPath),
	same("x:1|c|#\x8ay:1|c", Free), // another line, and as free
	same("_e{1,1}:\xca\x8a|b", Free),
	{"host.\xc3\x8atre:1|c", "Denali.\xc3\x8atre:1|c", Rewritten},

	// What every JavaScript object has is no name for a metric.
	same("constructor:1|ms", BadPath),
	same("__proto__:1|c", BadPath),
	same("to(String):1|s", BadPath),
	same("hasOwnProperty,a:1|ms", Free),
	same("constructo\xf2:1|ms", BadPath),
	same("constructor;a=b:1|ms", Free),
	same("constructor.x:1|ms", Free),
	same(".constructor:1|ms", Free),
	{"host.constructor:1|ms", "Denali.constructor:1|ms", Rewritten},

	same("_tagged.abc.def.x:1|g", BadPath),

	// A carbon behind statsd can have no file, for what statsd makes of it.
	same(strings.Repeat("x", 250)+":1|c", Free),
	same(strings.Repeat("x", 251)+":1|c", BadPath),
	same(strings.Repeat("x", 251)+".a:1|g", BadPath),
	same("a."+strings.Repeat("x/", 126)+":1|ms", BadPath), // a '-' each
	same("a."+strings.Repeat(" \tx", 125)+"("+":1|ms", Free),
	same("a."+strings.Repeat(" \u00a0x", 125)+"("+":1|ms", BadPath), // by TCP, the blank is a 'B' and another
	same(strings.Repeat("x.", 500)+"y:1|c", Free),
	same(strings.Repeat("a.", 950)+"b:1|c", BadPath),
	same(strings.Repeat("a......", 600)+"b:1|c", BadPath),
	same("x;a="+strings.Repeat("b", 300)+":1|c", Free), // its file is named by a hash
	same(strings.Repeat("x", 300)+":1|c|#a:b", Free),
	same(strings.Repeat("x", 251)+";name=a:1|c", BadPath), // which is no tag to carbon
	same(strings.Repeat("x", 251)+":1|c|#na(me:a", BadPath),
	same(strings.Repeat("x", 251)+";name=a:1|c|#b:c", Free),
	same(strings.Repeat("x", 251)+";name=:1|c", BadPath), // it cannot read it
	same(strings.Repeat("x", 251)+":1|c|#name", Free),
	same("x;a:1|c", BadPath),
	same("x;:1|c", BadPath),
	same("x;a=:1|c", BadPath),
	same("x;=b:1|c", BadPath),
	same("x;a=b;:1|c", BadPath),
	same("x;a=(é):1|c", BadPath), // nothing of which is left
	same("_sc|x;a:1|c", BadPath),
	{"host.x;a:1|c", "", BadPath},
	same("x;a=~b:1|c", Free), // whose '~' goes
	same("x;a!=b:1|c", Free),
	same("x;a=b;a=c:1|c", Free),
	same("x;name=b:1|c", Free),
	same("x:1|c|#a", Free),                                       // servers other than statsd want it
	same("x;a="+strings.Repeat("b", MaxLen-100)+":1|c", BadPath), // no line of carbon, with what statsd adds
	same("x:1|c|#a:"+strings.Repeat("b", MaxLen-100), BadPath),
	same("x:"+strings.Repeat("1|c:", 1000)+"1|c", Free),
	{"host." + strings.Repeat("x", 251) + ":1|c", "", BadPath},
	same(strings.Repeat("\u00e9", 250)+".a:1|c", Free), // nothing, or by TCP 250 of 'C'
	same(strings.Repeat("\u00e9", 251)+".a:1|c", BadPath),
	{"host." + strings.Repeat("\xe1", 251) + ":1|c", "", BadPath},
	same("_e{"+strings.Repeat("x", 250)+"}:1|c", BadPath),
	same("_sc|"+strings.Repeat("x", 250)+"|0|d:1|h:a", BadPath),
	same("_sc|"+strings.Repeat("x", 250)+"|0|d", Free), // no metric
	same("_e{5,400}:title|"+strings.Repeat("x", 400), Free),
	same("\xba\xc7:x|1", Free), // an empty name
	same("_tagged:1|g", Free),
}

func TestStatsD(t *testing.T) {
	checkRows(t, hostRules.Rewriter(StatsD, "Denali"), statsdRows)
}

// What becomes of Carbon's.
var carbonRows = []row{
	{"host.cpu 3.4 1763848800", "Denali.cpu 3.4 1763848800", Rewritten},
	{"host.cpu.:x 3.4 1763848800", "Denali.cpu.:x 3.4 1763848800", Rewritten},
	{"host.größe 1 2", "Denali.größe 1 2", Rewritten},
	same("host 1 2", Free),
	same("hostess.cpu 1 2", Free),
	same("app.host.cpu 1 2", Free),
	same("a..b 1 2", Free),
	same("_e{1,1}:a|b 1 2", Free),

	// Fields leave with single blanks between them.
	{"host.cpu  1\t2", "Denali.cpu 1 2", Rewritten},
	{"\t host.cpu 1 \t 2 \t", "Denali.cpu 1 2", Rewritten},
	{" app 1 2", "app 1 2", Free},

	// Tags.
	{"host.cpu;dc=x;a=host.b 1 2", "Denali.cpu;dc=x;a=host.b 1 2", Rewritten},
	same("MtLogan;dc=x 1 2", ForeignName),
	same(";dc=x 1 2", EmptyPath),
	same("[a].b 1 2", Free),
	same("#h.x 1 2", Free),
	same(",x.y 1 2", Free),
	same("\u00a0 1 2", EmptyPath),
	same("\u00a0;a=b 1 2", EmptyPath),

	same("MtLogan.cpu 1 2", ForeignName),
	same("Denali.cpu 1 2", Named),

	// Fields.
	same("x", BadFields),
	same("x 1", BadFields),
	same("x 1 ", BadFields),
	same(" 1 2", BadFields),
	same("x 1 2 3", BadFields),
	same(" ", Empty),
	same("\t \t", Empty),

	// Bytes.
	same("x\x00 1 2", Control),
	same("x 1 2\r", Control),
	same("x\v1 2", Control),
	same("x 1 2\x7f", Control),
	same("x.\xff 1 2", BadUTF8),
	same("x 1 2 3 \xc3", BadUTF8),
	same("x.\xed\xa0\x80 1 2", BadUTF8), // half a surrogate pair
	same("x.\xc0\xaf 1 2", BadUTF8),     // longer than it need be

	// Values.
	same("x 1. 2", Free),
	same("x .5 2", Free),
	same("x -1.5e-3 2", Free),
	same("x +1E5 2", Free),
	same("x 1e400 2", Free),
	same("x inf 2", Free),
	same("x -Infinity 2", Free),
	same("x +iNF 2", Free),
	same("x nan 2", BadValue),
	same("x -NaN 2", BadValue),
	same("x 0x10 2", BadValue),
	same("x 1_000 2", BadValue),
	same("x 1,5 2", BadValue),
	same("x . 2", BadValue),
	same("x - 2", BadValue),
	same("x +-1 2", BadValue),
	same("x e5 2", BadValue),
	same("x 1e 2", BadValue),
	same("x 1e5.0 2", BadValue),
	same("x infinite 2", BadValue),
	same("x １ 2", BadValue),
	same("x one 2", BadValue),

	// Timestamps.
	same("x 1 0", Free),
	same("x 1 1763848800.123", Free),
	same("x 1 1.7638488e9", Free),
	same("x 1 +1763848800", Free),
	same("x 1 -5", BadTimestamp),
	same("x 1 -2", BadTimestamp),
	same("x 1 -0.9", Free),
	same("x 1 4294967295", Free),
	same("x 1 4294967295.9", Free),
	same("x 1 004294967295", Free),
	same("x 1 4294967296", BadTimestamp),
	same("x 1 4294967296.0", BadTimestamp),
	same("x 1 5e9", BadTimestamp),
	same("x 1 1700000000000", BadTimestamp),
	same("x 1 01700000000000", BadTimestamp),
	same("x 1 "+strings.Repeat("9", 308), BadTimestamp),
	same("x 1 1e400", BadTimestamp),
	same("x 1 -1e400", BadTimestamp),
	same("x 1 inf", BadTimestamp),
	same("x 1 nan", BadTimestamp),
	same("x 1 N", BadTimestamp),
	same("x 1 0x10", BadTimestamp),
	same("x 1 2026-01-02T03:04:05Z", BadTimestamp),
	{"x 1 -1", "x 1 1763848800", Free},
	{"x 1 -1.0", "x 1 1763848800", Free},
	{"x 1 -1.999", "x 1 1763848800", Free},
	{"x 1 -1e0", "x 1 1763848800", Free},
	{"x 1 -10E-1", "x 1 1763848800", Free},
	{"host.x 1 -1", "Denali.x 1 1763848800", Rewritten},

	same("", Empty),

	// What a real carbon-cache makes of a path.
	{".host.x 1 2", "Denali.x 1 2", Rewritten},
	{"host..x 1 2", "Denali.x 1 2", Rewritten},
	{"host/x 1 2", "Denali.x 1 2", Rewritten},
	{"./host//.x//y 1 2", "Denali.x//y 1 2", Rewritten},
	{"\u00a0\u2003host.x 1 2", "Denali.x 1 2", Rewritten},
	{"\ufeffhost.x 1 2", "Denali.x 1 2", Rewritten},
	{"~~host.x 1 2", "Denali.x 1 2", Rewritten},
	{"~.host.x;a=b 1 2", "Denali.x;a=b 1 2", Rewritten},
	{"host.x{a=\"b\"} 1 2", "Denali.x{a=\"b\"} 1 2", Rewritten},
	same(".~host.x 1 2", Free),
	same("host{a=\"b\"} 1 2", Free), // a bare host
	same("/host 1 2", Free),
	same("\u200bhost.x 1 2", Free),
	same(".MtLogan.x 1 2", ForeignName),
	same("/MtLogan.x 1 2", ForeignName),
	same("./MtLogan.x 1 2", ForeignName),
	same("MtLogan/x 1 2", ForeignName),
	same("\u00a0MtLogan.x 1 2", ForeignName),
	same("\u0085MtLogan.x 1 2", ForeignName),
	same("MtLogan\u00a0 1 2", ForeignName),
	same("~MtLogan.x 1 2", ForeignName),
	same("MtLogan{a=\"b\"} 1 2", ForeignName),
	same("MtLogan{a=\"b\"}\u2003 1 2", ForeignName),
	same("MtLogan{a}.x 1 2", Free),
	same("(MtLogan.x 1 2", Free), // Carbon cuts nothing
	same("app/MtLogan/x 1 2", Free),
	same("\u00a0app.x 1 2", Free),
	same("/Denali/x 1 2", Named),
	same("~Denali{a=\"b\"} 1 2", Named),
	same("_tagged.abc.def.0123 1 2", BadPath),
	same("/_tagged/abc 1 2", BadPath),
	same("_tagged 1 2", Free),

	// Names that no file can have.
	same(strings.Repeat("x", 250)+" 1 2", Free),
	same(strings.Repeat("x", 251)+" 1 2", BadPath),
	same("a."+strings.Repeat("x", 251)+"/b 1 2", BadPath),
	same(strings.Repeat("ü", 126)+" 1 2", BadPath),
	same(strings.Repeat("x", 251)+";a=b 1 2", Free), // carbon stores it under its hash
	same(strings.Repeat("x", 251)+"{a=\"b\"} 1 2", Free),
	same(strings.Repeat("x", 251)+";name=b 1 2", BadPath),
	same(strings.Repeat("x", 251)+"{name=\"b\"} 1 2", BadPath),
	same(strings.Repeat("x", 251)+"{a=b\"} 1 2", BadPath),
	same(strings.Repeat("~", 251)+"x 1 2", Free),
	same(strings.Repeat("~", 251)+" 1 2", BadPath),
	same(strings.Repeat("a.", 949)+"b 1 2", Free),
	same(strings.Repeat("a.", 950)+"b 1 2", BadPath),
	same(strings.Repeat("a.......", 501)+" 1 2", BadPath),

	// Tags that carbon and graphite-web cannot read.
	same("x;a 1 2", BadPath),
	same("x; 1 2", BadPath),
	same("x;a= 1 2", BadPath),
	same("x;=b 1 2", BadPath),
	same("x;a=b; 1 2", BadPath),
	same("x;a=~b 1 2", BadPath),
	same("x;a!=b 1 2", BadPath),
	same("~;a=b 1 2", BadPath),
	same("~~ 1 2", BadPath),
	same("x{a=b\"} 1 2", BadPath),
	same("{a=\"b\"} 1 2", BadPath),
	same("x{a=b\"}\u00a0 1 2", BadPath),
	same("MtLogan.x;a 1 2", ForeignName),
	same("x;a=b=c;d=! 1 2", Free),
	same("x{a=\"b\"} 1 2", Free),
	same("x{a=\"b\" 1 2", Free), // to Carbon it has no tags
	same("x,a=b 1 2", Free),
}

func TestCarbon(t *testing.T) {
	checkRows(t, hostRules.Rewriter(Carbon, "Denali"), carbonRows)
}

// The length is judged as the line leaves, and after everything else that could
// be wrong with it.
// Lines that are bound to the name are not named before the floor.
func TestSince(t *testing.T) {
	for _, test := range []struct {
		floor int64
		rows  []row
	}{
		{1763848800, []row{
			{"host.x 1 1763848800", "Denali.x 1 1763848800", Rewritten},
			{"host.x 1 1763848799", "", Earlier},
			{"host.x 1 1763848799.9", "", Earlier},
			{"host.x 1 1763848800.0", "Denali.x 1 1763848800.0", Rewritten},
			{"host.x 1 1763848900", "Denali.x 1 1763848900", Rewritten},
			{"host.x 1 4294967295", "Denali.x 1 4294967295", Rewritten},
			{"host.x 1 999999999", "", Earlier},
			{"host.x 1 0001763848800", "Denali.x 1 0001763848800", Rewritten},
			{"host.x 1 0001763848799", "", Earlier},
			{"host.x 1 3e9", "Denali.x 1 3e9", Rewritten},
			{"host.x 1 -0.5", "", Earlier},
			{"host.x 1 -5", "", BadTimestamp},
			{"host.x\t1  1763848799", "", Earlier},
			{"Denali.x 1 1763848799", "", Earlier},
			same("app.x 1 1763848799", Free), // needs no name
			same("MtLogan.x 1 1763848799", ForeignName),
			same("host.x nan 1763848799", BadValue),
			same("host.x 1 x", BadTimestamp),
			{"host.x 1 -1", fmt.Sprint("Denali.x 1 ", now), Rewritten},
		}},
		{now + 1, []row{{"host.x 1 -1", "", Earlier}}},
		{5, []row{{"host.x 1 0000000004", "", Earlier}, {"host.x 1 0000000005", "Denali.x 1 0000000005", Rewritten}, {"host.x 1 5", "Denali.x 1 5", Rewritten}, {"host.x 1 4", "", Earlier}}},
		{1e10, []row{{"host.x 1 4294967295", "", Earlier}}},
		{0, []row{{"host.x 1 0000000000", "Denali.x 1 0000000000", Rewritten}}},
		{math.MinInt64, []row{{"host.x 1 0", "Denali.x 1 0", Rewritten}}},
	} {
		checkRows(t, hostRules.Rewriter(Carbon, "Denali").Since(test.floor), test.rows)
	}
}

func TestTimestamp(t *testing.T) {
	for line, want := range map[string]int64{
		"x 1 1763848800": 1763848800, "x 1 1763848800.9": 1763848800, "\tx  1\t1.5e3 ": 1500, "x 1 -0.5": 0,
		"x 1 -1": now, "x 1 -1.5": now, "x 1 4e9": 4e9, "x 1 007": 7,
	} {
		if got := Timestamp([]byte(line), now); got != want {
			t.Errorf("%q: got %d, want %d", line, got, want)
		}
	}
}

func TestTooLong(t *testing.T) {
	short := rules("servers.host", "{name}", ForwardUnmatched) // K2 saves 10 bytes
	for _, tt := range []struct {
		name string
		w    *Rewriter
		rows []row
	}{
		{"statsd", hostRules.Rewriter(StatsD, "Denali"), []row{
			same(pad(MaxLen, "x:1|c|", ""), Free),
			same(pad(MaxLen+1, "x:1|c|", ""), TooLong),
			same(pad(MaxLen, "_e{1,1}:", "|y"), Free),
			same(pad(MaxLen+1, "_e{1,1}:", "|y"), TooLong),
			{pad(MaxLen-2, "host.x:1|c|", ""), pad(MaxLen, "Denali.x:1|c|", ""), Rewritten},
			same(pad(MaxLen-1, "host.x:1|c|", ""), TooLong),
			same(pad(MaxLen+1, "x", "\x00"), Control),
			same(pad(MaxLen+1, "x", ""), NoValue),
		}},
		{"carbon", hostRules.Rewriter(Carbon, "Denali"), []row{
			{pad(MaxLen-2, "host.x;a=", " 1 2"), pad(MaxLen, "Denali.x;a=", " 1 2"), Rewritten},
			same(pad(MaxLen-1, "host.x;a=", " 1 2"), TooLong),
			{"x" + strings.Repeat(" ", MaxLen) + "1 2", "x 1 2", Free},
			{pad(MaxLen-8, "x;a=", " 1 -1"), pad(MaxLen, "x;a=", " 1 1763848800"), Free},
			same(pad(MaxLen-7, "x;a=", " 1 -1"), TooLong),
			same(pad(MaxLen+1, "x.", " 1 2"), TooLong),
			same(pad(MaxLen, "x.", " 1 2"), BadPath),
			same(pad(MaxLen, "MtLogan.", " 1 2"), ForeignName),
			same(pad(MaxLen+1, "x", " 1 2\xff"), BadUTF8),
		}},
		{"short name", short.Rewriter(StatsD, "K2"), []row{
			{pad(MaxLen+10, "servers.host.x:1|c|", ""), pad(MaxLen, "K2.x:1|c|", ""), Rewritten},
			same(pad(MaxLen+11, "servers.host.x:1|c|", ""), TooLong),
			same(pad(MaxLen+1, "K2.x:1|c|", ""), TooLong),
			same(pad(MaxLen+10, "Denali.", ":1|c"), ForeignName),
			same(pad(MaxLen+11, "Denali.", ":1|c"), TooLong),
		}},
		{"no name", short.Rewriter(StatsD, ""), []row{
			same(pad(MaxLen+10, "servers.host.", ":1|c"), Held),
			same(pad(MaxLen+11, "servers.host.", ":1|c"), TooLong),
			same(pad(MaxLen+10, "Denali.", ":1|c"), Held),
			same(pad(MaxLen+11, "Denali.", ":1|c"), TooLong),
			same(pad(MaxLen, "x:1|c|", ""), Free),
			same(pad(MaxLen+1, "x:1|c|", ""), TooLong),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { checkRows(t, tt.w, tt.rows) })
	}
}

func TestRules(t *testing.T) {
	for _, tt := range []struct {
		name string
		w    *Rewriter
		rows []row
	}{
		{"no name", hostRules.Rewriter(StatsD, ""), []row{
			same("host.cpu:1|c", Held),
			same("Denali.cpu:1|c", Held),
			same("MtLogan:1|c", Held),
			same("app.cpu:1|c", Free),
			same("host:1|c", Free),
			same("_e{1,1}:a|b", Free),
			same("host.cpu:|c", NoValue),
			same("host.cpu:1|c|@+1", BadRate),
		}},
		{"no name, carbon", hostRules.Rewriter(Carbon, ""), []row{
			{"\thost.cpu  1 -1 ", "host.cpu 1 1763848800", Held},
			{"app.cpu  1 -1 ", "app.cpu 1 1763848800", Free},
		}},
		{"prefix", rules("host", "{name}", PrefixUnmatched).Rewriter(StatsD, "Denali"), []row{
			{"host.cpu:1|c", "Denali.cpu:1|c", Rewritten},
			{"app.cpu:1|c", "Denali.app.cpu:1|c", Rewritten},
			{"host:1|c", "Denali.host:1|c", Rewritten},
			{"Denali.cpu:1|c", "Denali.Denali.cpu:1|c", Rewritten},
			same("MtLogan.cpu:1|c", ForeignName),
			same("_e{1,1}:a|b", Free),
			{pad(MaxLen-7, "x:1|c|", ""), pad(MaxLen, "Denali.x:1|c|", ""), Rewritten},
			same(pad(MaxLen-6, "x:1|c|", ""), TooLong),
		}},
		{"prefix, no name", rules("host", "{name}", PrefixUnmatched).Rewriter(StatsD, ""), []row{
			same("app.cpu:1|c", Held),
			same("MtLogan.cpu:1|c", Held),
			same("_sc|a|0", Free),
		}},
		{"drop", rules("host", "{name}", DropUnmatched).Rewriter(Carbon, "Denali"), []row{
			{"host.cpu 1 2", "Denali.cpu 1 2", Rewritten},
			same("app.cpu 1 2", UnmatchedPath),
			same("Denali.cpu 1 2", UnmatchedPath),
			same("MtLogan.cpu 1 2", ForeignName),
		}},
		{"drop, no name", rules("host", "{name}", DropUnmatched).Rewriter(StatsD, ""), []row{
			same("host.cpu:1|c", Held),
			same("app.cpu:1|c", UnmatchedPath),
			same("MtLogan.cpu:1|c", Held),
			same("_e{1,1}:a|b", Free),
		}},
		{"more nodes", rules("my.host", "servers.{name}-x.os", ForwardUnmatched).Rewriter(StatsD, "Denali"), []row{
			{"my.host.cpu:1|c", "servers.Denali-x.os.cpu:1|c", Rewritten},
			same("my.host:1|c", Free),
			same("my.hosts.cpu:1|c", Free),
			same("servers.MtLogan-x.os.cpu:1|c", ForeignName),
			same("servers.MtLogan-x.os:1|c", ForeignName),
			same("servers.MtLogan-x.osx:1|c", Free),
			same("servers.MtLogan-x:1|c", Free),
			same("servers.MtLogan-x;os=a:1|c", Free),
			same("servers.Denali-x.os.cpu:1|c", Named),
			same("Denali.cpu:1|c", Free),
		}},
		{"from holds to", rules("servers", "servers.{name}", ForwardUnmatched).Rewriter(StatsD, "Denali"), []row{
			{"servers.cpu:1|c", "servers.Denali.cpu:1|c", Rewritten},
			{"servers.Denali.cpu:1|c", "servers.Denali.Denali.cpu:1|c", Rewritten}, // from matches it
			same("servers.MtLogan.cpu:1|c", ForeignName),
			same("servers:1|c", Free),
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { checkRows(t, tt.w, tt.rows) })
	}
}

func TestProblems(t *testing.T) {
	for _, tt := range []struct{ from, to, want string }{
		{"host", "{name}", ""},
		{"a.b-c/d", "x.{name}-y.z", ""},
		{"servers", "servers.{name}", ""},
		{"", "{name}", "rewrite.from: it is empty (host)"},
		{".host", "{name}", `rewrite.from: ".host" has an empty node (dots only between nodes)`},
		{"a..b", "{name}", `rewrite.from: "a..b" has an empty node (dots only between nodes)`},
		{"host.", "{name}", `rewrite.from: "host." has an empty node (dots only between nodes)`},
		{"a b", "{name}", `rewrite.from: "a b" holds ' ', which no prefix may (printable ASCII without blanks and : ; , # [ | @ { } * ?)`},
		{"größe", "{name}", `rewrite.from: "größe" holds 'ö', which no prefix may (printable ASCII without blanks and : ; , # [ | @ { } * ?)`},
		{"{name}", "{name}", `rewrite.from: "{name}" holds '{', which no prefix may (printable ASCII without blanks and : ; , # [ | @ { } * ?)`},
		{"host", "", "rewrite.to: it is empty ({name})"},
		{"host", "x", `rewrite.to: "x" holds {name} 0 times and must once: without it all hosts would write the same paths ({name} or servers.{name})`},
		{"_tagged.x", "{name}", `rewrite.from: "_tagged.x" lies where Carbon keeps series with tags (host)`},
		{"host", "_tagged.{name}", `rewrite.to: "_tagged.{name}" lies where Carbon keeps series with tags ({name})`},
		{"host", ".{name}", `rewrite.to: ".{name}" has an empty node (dots only between nodes)`},
		{"host", "{name}:", `rewrite.to: "{name}:" holds ':', which no prefix may (printable ASCII without blanks and : ; , # [ | @ { } * ?)`},
		{"K2", "{name}", `rewrite.from: "K2" is a name of the list too (a word that is no name, like host)`},
		{"K2", "x.{name}", `rewrite.from: "K2" is a name of the list too (a word that is no name, like host)`},
		{"x.K2", "x.{name}", `rewrite.from: "x.K2" lies under x.K2, where only the holder of K2 may write (a word that is no name, like host)`},
		{"K2.host", "{name}", `rewrite.from: "K2.host" lies under K2, where only the holder of K2 may write (a word that is no name, like host)`},
	} {
		got := ""
		if err := rules(tt.from, tt.to, ForwardUnmatched).Problems().Err(); err != nil {
			got = err.Error()
		}
		if got != tt.want {
			t.Errorf("from %q, to %q: got\n%s\nwant\n%s", tt.from, tt.to, got, tt.want)
		}
	}

	for _, r := range []Rules{
		{From: "host", To: "{name}", Names: []string{"Denali", "_tagged"}},
		{From: "host", To: "~_{name}", Names: []string{"Denali", "tagged"}},
		{From: "host", To: "_tagged/{name}", Names: []string{"Denali"}},
	} {
		r.Unmatched = ForwardUnmatched
		if got := r.Problems(); len(got) != 1 || got[0].Path != "rewrite.to" || !strings.Contains(got[0].Text, "_tagged") {
			t.Errorf("to %q with %q: got %v, want one problem: it lies where Carbon keeps series with tags", r.To, r.Names, got)
		}
	}

	got := rules("host", "{name}.{name}", ForwardUnmatched).Problems()
	if len(got) == 0 || got[len(got)-1].Path != "rewrite.to" || !strings.Contains(got.Error(), "2 times") {
		t.Errorf("{name} twice: got %v", got)
	}
}

// The words of the reasons are labels of metrics, and a promise.
func TestReasons(t *testing.T) {
	var got []string
	for r := range NumResults {
		if (r.Reason() != "") == (r.Appended() || r == Empty || r == Earlier) {
			t.Errorf("%d: Appended %v, Reason %q", r, r.Appended(), r.Reason())
		}
		if reason := r.Reason(); reason != "" {
			got = append(got, reason)
		}
	}
	want := strings.Fields("too_long control empty_path bad_path no_value bad_rate bad_utf8 bad_fields bad_value bad_timestamp foreign_name no_point unmatched")
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCut(t *testing.T) {
	for _, tt := range []struct {
		data, line, rest string
		ok               bool
	}{
		{"a\nb\n", "a", "b\n", true},
		{"a\r\nb", "a", "b", true},
		{"a\r\r\n", "a\r", "", true},
		{"\n\n", "", "\n", true},
		{"\r\n", "", "", true},
		{"a\rb\n", "a\rb", "", true},
		{"ab", "", "ab", false},
		{"ab\r", "", "ab\r", false},
		{"", "", "", false},
	} {
		line, rest, ok := Cut([]byte(tt.data))
		if string(line) != tt.line || string(rest) != tt.rest || ok != tt.ok {
			t.Errorf("Cut(%q) = %q, %q, %v; want %q, %q, %v", tt.data, line, rest, ok, tt.line, tt.rest, tt.ok)
		}
	}
}

// Every byte that matters is seen wherever it stands, and no other byte is taken for
// one, whatever its neighbours are.
func TestScan(t *testing.T) {
	for n := range 20 {
		for at := range n {
			for c := range 256 {
				for _, fill := range []byte{'x', '\t', ' ', 0x80, 0xff} {
					b := bytes.Repeat([]byte{fill}, n)
					b[at] = byte(c)
					want := content(0)
					if bytes.ContainsRune(b, '\t') {
						want |= tab
					}
					if byte(c) < 0x20 && c != '\t' || c == 0x7f {
						want |= control
					}
					if c >= 0x80 || n > 1 && fill >= 0x80 {
						want |= high
					}
					if got := scan(tight(b)); got != want {
						t.Fatalf("scan(%q) = %b; want %b", b, got, want)
					}
				}
			}
		}
	}
}

// Every byte at every place of a timestamp, and of a name.
func TestPlainLine(t *testing.T) {
	check := func(line string, at, c int, want bool) {
		b := tight([]byte(line))
		b[at] = byte(c)
		if _, end, _ := plainLine(b); (end > 0) != want {
			t.Fatalf("plainLine(%q): %v, want %v", b, end > 0, want)
		}
	}
	for c := range 256 {
		for i := range 10 {
			check("a 1 1763848800\n", len("a 1 ")+i, c, '0' <= c && c <= '9' && (i > 0 || c < '4'))
		}
		for n := 1; n <= 20 && c != ' '; n++ {
			for i := range n {
				name := bytes.Repeat([]byte("x"), n)
				name[i] = byte(c)
				check(string(name)+" 1 1763848800\n", i, c, isUsual(name))
			}
		}
	}
}

// Every number of up to four bytes that matter; and of up to 17, with every byte at every
// place, and with any two that matter.
func TestPlainValue(t *testing.T) {
	plain := regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]*)?$`)
	check := func(value []byte) {
		if bytes.IndexByte(value, ' ') >= 0 {
			return // the first blank is what is looked for
		}
		want := len(value)
		if !plain.Match(value) {
			want = 0
		}
		for _, behind := range []string{" 1763848800\n", " 1763848800\nhost.cpu 1 1763848800\n"} {
			if got := plainValue(tight(append(value, behind...))); got != want {
				t.Fatalf("plainValue(%q) = %d; want %d", string(value)+behind, got, want)
			}
		}
	}
	const matter = "09.+-e/:;x"
	for n := range 10_000 {
		value := []byte{matter[n%10], matter[n/10%10], matter[n/100%10], matter[n/1000]}
		for k := range 4 {
			check(value[k:])
		}
	}
	for n := 1; n <= 17; n++ {
		for at := range n {
			for c := range 256 {
				value := []byte("12345678901234567")[:n]
				value[at] = byte(c)
				check(value)
			}
			for pair := range 100 * at {
				value := []byte("12345678901234567")[:n]
				value[at], value[pair/100] = matter[pair%10], matter[pair/10%10]
				check(value)
			}
		}
	}
}

// What is as nearly all lines are is taken at once, up to the first that is not, and up to
// the limit.
func TestAppendPlain(t *testing.T) {
	w := hostRules.Rewriter(Carbon, "Denali").Since(1763848800)
	const head = "host.cpu.0.user 3.4 1763848800\nx 1 1763848800\nhost.m -12345678.25 1763848900\nhost.f 0.12345678901234567 4294967199\nDenali.x;a=b;dc=x-7 +1. 1763848800\n"
	const want = "Denali.cpu.0.user 3.4 1763848800\nx 1 1763848800\nDenali.m -12345678.25 1763848900\nDenali.f 0.12345678901234567 4294967199\nDenali.x;a=b;dc=x-7 +1. 1763848800\n"
	for _, rest := range []string{
		"", "\n", "host.x 1 176384880", "host.x 1 1763848800", "host.x 1 1763848800\r\n", "host.x 1  1763848800\n", " host.x 1 1763848800\n",
		"host.x\t1 1763848800\n", "host.x;a 1 1763848800\n", "host.x;a=~b 1 1763848800\n", "host.x;a=b;\xff=c 1 1763848800\n", ";a=b 1 1763848800\n", "host.x;a=b", "host.x; 1 1763848800\n", "MtLogan.x;a=b 1 1763848800\n", "MtLogan.x 1 1763848800\n", "host.x 1 1763848799\n", "host.x 1 4294967296\n",
		"host.x 1e3 1763848800\n", "host.x  1763848800\n", "host.x - 1763848800\n", "~host.x 1 1763848800\n", "host{a=\"b\"} 1 1763848800\n",
		"host.\x7f 1 1763848800\n", "host.\xff 1 1763848800\n", "host.x 1 17638488x0\n", "host.x 1 1763848800 \n", pad(270, "host.", " 1 1763848800\n"),
	} {
		data := tight([]byte(head + rest))
		got, left, lines, rewritten := w.AppendPlain(nil, data, math.MaxInt)
		if string(got) != want || string(left) != rest || lines != 5 || rewritten != 3 {
			t.Errorf("before %.100q: %q, %q, %d lines, %d rewritten", rest, got, left, lines, rewritten)
		}
	}
	if got, left, lines, _ := w.AppendPlain(nil, []byte(head), len("Denali.cpu")); lines != 1 || string(left) != head[len("host.cpu.0.user 3.4 1763848800\n"):] {
		t.Errorf("up to ten bytes: %q, %q, %d lines", got, left, lines)
	}
}

func TestNoAllocations(t *testing.T) {
	for _, tt := range []struct {
		protocol Protocol
		lines    string
	}{
		{StatsD, statsdInput + "app.x:1|c\nMtLogan.x:1|c\nx:1|c|@+1\nx:|s\n_e{1,1}:a|@b\nx\x00\n"},
		{Carbon, carbonInput + "app.x 1 2\nMtLogan.x 1 2\n\tx  1 -1.5\nx inf 1e9\nx 1 1763848800.123\nx 1\nx\xff\n"},
	} {
		for _, name := range []string{"Denali", ""} {
			w := hostRules.Rewriter(tt.protocol, name).Since(1763848801)
			input, dst := []byte(tt.lines), make([]byte, 0, 4*len(tt.lines))
			if n := testing.AllocsPerRun(100, func() { appendAll(w, dst, input) }); n != 0 {
				t.Errorf("%v with name %q: %v allocations; want none", tt.protocol, name, n)
			}
		}
	}
}

// appendAll appends every whole line of data.
func appendAll(w *Rewriter, dst, data []byte) []byte {
	for {
		dst, data, _, _ = w.AppendPlain(dst, data, math.MaxInt)
		line, rest, ok := Cut(data)
		if !ok {
			return dst
		}
		dst, _ = w.Append(dst, line, now)
		data = rest
	}
}

// What becomes points has the mark for our name, however that is written, and whether it
// is held or not. Of a name that is not known to be ours nobody can tell.
func TestPoints(t *testing.T) {
	for _, c := range []struct {
		rules            Rules
		name, line, want string
		result           Result
	}{
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "Denali", "host.x:1|c", "\x01.x:1|c\n", Rewritten},
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "", "host.x:1|c", "\x01.x:1|c\n", Rewritten},
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "Denali", "Denali.x:1|c", "\x01.x:1|c\n", Rewritten},
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "Denali", ".Denali..x:1|c", "\x01.x:1|c\n", Rewritten},
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "Denali", "Denali:1|c", "\x01:1|c\n", Rewritten},
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "Denali", "Logan.x:1|c", "", ForeignName},
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "", "Denali.x:1|c", "Denali.x:1|c\n", Held},
		{Rules{From: "host", To: "{name}", Unmatched: DropUnmatched}, "Denali", "app.x:1|c", "", UnmatchedPath},
		{Rules{From: "host", To: "{name}", Unmatched: PrefixUnmatched}, "", "app.x:1|c", "\x01.app.x:1|c\n", Rewritten},
		{Rules{From: "host", To: "s.{name}", Unmatched: PrefixUnmatched}, "Denali", "s.Denali.x:1|c", "\x01.x:1|c\n", Rewritten},
		{Rules{From: "host", To: "s.{name}", Unmatched: PrefixUnmatched}, "Denali", "s..Denali;a=1:1|c", "\x01;a=1:1|c\n", Rewritten},
	} {
		c.rules.Points, c.rules.Names = true, []string{"Denali", "Logan"}
		out, result := c.rules.Rewriter(StatsD, c.name).Append(nil, []byte(c.line), 0)
		if string(out) != c.want || result != c.result {
			t.Errorf("%q under %q: got %q, %v, want %q, %v", c.line, c.name, out, result, c.want, c.result)
		}
	}
}

// A line carries our name in any spelling of it.
func TestOwns(t *testing.T) {
	w := rules("host", "servers.{name}", ForwardUnmatched).Rewriter(StatsD, "Denali")
	for line, want := range map[string]bool{
		"servers.Denali.x:1|c": true, ".servers..Denali.x:1|c": true, "servers.Den(ali:1|c": true, "servers.Denali;a=b:1|c": true, "servers.Denali,a:1|c": true,
		"servers.Denal.x:1|c": false, "servers.Denali2.x:1|c": false, "Denali.x:1|c": false, "servers:Denali|c": false,
		"_e{7,1}:Denali|x": false, "app.x:1|c|#servers.Denali.x": false,
	} {
		if got := w.Owns([]byte(line)); got != want {
			t.Errorf("%q: got %v", line, got)
		}
	}
	w = rules("host", "{name}", PrefixUnmatched).Rewriter(StatsD, "Denali")
	for line, want := range map[string]bool{"Denali.x:1|c": true, "Denali.Denali:1|c": true, "_e{7,1}:Denali|x": false} {
		if got := w.Owns([]byte(line)); got != want {
			t.Errorf("prefix, %q: got %v", line, got)
		}
	}
}
