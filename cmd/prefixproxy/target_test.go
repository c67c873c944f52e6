package main

import (
	"bytes"
	"strings"
	"testing"
)

// What target prints is one Graphite expression, whatever anybody has written to etcd.
func TestTarget(t *testing.T) {
	client, file := bluePool(t)
	for key, value := range map[string]string{
		"Denali/1795386417123-1":    `{"owner":"web17","lease":"1","from":"2026-11-22T22:26:57.123Z","to":"2026-11-22T23:00:00.900Z","ended":"release"}`,
		"Denali/1795389000000-2":    `{"owner":"web3","lease":"2","from":"2026-11-22T23:10:00.000Z","to":"2026-11-22T23:11:00.000Z","ended":"release"}`,
		"MtLogan/1795390000000-3":   `{"owner":"web17","lease":"3","from":"2026-11-22T23:26:40.000Z","to":"2026-11-22T23:30:00.000Z","ended":"expired"}`,
		"a),b(/1795386417123-4":     `{"owner":"web17","lease":"4","from":"2026-11-22T22:26:57.123Z"}`,
		"a'b/1795386417123-4":       `{"owner":"web17","lease":"4","from":"2026-11-22T22:26:57.123Z"}`,
		"MtBona/1795386417123-5":    `{"owner":"'),secret.*,(\\g<9>}{<b>","lease":"5","from":"2026-11-22T22:26:57.123Z","to":"2026-11-22T23:00:00.000Z","ended":"release"}`,
		"MtFoo/0000000000000-8":     `{"owner":"of1970","lease":"8","from":"1970-01-01T00:00:00.000Z","to":"1970-01-01T00:00:01.000Z","ended":"release"}`,
		"KingPeak/1795386417123-6":  `{"owner":"3le9.example.net","lease":"6","from":"2026-11-22T22:26:57.123Z","to":"2026-11-22T23:00:00.000Z","ended":"release"}`,
		"KingPeak/1795386418123-77": `{"owner":"3le9.example.net","lease":"x","from":"'),secret"}`,
	} {
		if _, err := client.Put(t.Context(), "/prefixproxy/blue/tenures/"+key, value); err != nil {
			t.Fatal(err)
		}
	}
	target := func(args ...string) (out, err string, code int) {
		var o, e bytes.Buffer
		code = run(append([]string{"target", "--config", file}, args...), nil, &o, &e)
		return o.String(), e.String(), code
	}
	for _, tt := range []struct{ owner, expr, want string }{
		{"web17", "host.cpu.user", "aliasSub(groupByNodes(group(timeSlice(Denali.cpu.user,'1795386416','1795388399'),timeSlice(MtLogan.cpu.user,'1795388400','1795390199')),'last',1,2),'^','web17.')\n"},
		{"'),secret.*,(\\g<9>}{<b>", "host.x", "aliasSub(groupByNodes(group(timeSlice(MtBona.x,'1795386416','1795388399')),'last',1),'^','___secret_____g_9____b_.')\n"},
		{"3le9.example.net", "stats.timers.host.x", "aliasSub(groupByNodes(group(timeSlice(stats.timers.KingPeak.x,'1795386416','1795388399')),'last',0,1,3),'^(([^.]*[.]){2})','\\g<1>3le9_example_net.')\n"},
		{"3le9.example.net", "sumSeries(host.{a,b}.x, 'host.y',stats.host)", "sumSeries(aliasSub(groupByNodes(group(timeSlice(KingPeak.{a,b}.x,'1795386416','1795388399')),'last',1,2),'^','3le9_example_net.'), 'host.y',stats.host)\n"},
		{"3le9.example.net", "alias( host.x , \"°C \\\"a\\\"),host.y\") | scale(-1e-3)|\nkeepLastValue()", "alias( aliasSub(groupByNodes(group(timeSlice(KingPeak.x,'1795386416','1795388399')),'last',1),'^','3le9_example_net.') , \"°C \\\"a\\\"),host.y\") | scale(-1e-3)| keepLastValue()\n"},
		{"3le9.example.net", "alias(host.**.x,'it''s')", "alias(aliasSub(aliasSub(groupByNodes(aliasSub(aliasSub(aliasSub(group(timeSlice(KingPeak.**.x,'1795386416','1795388399'))" +
			`,'^timeSlice[(](([^.;]*[.]){0})[^.;]*(.*), [0-9]+, [0-9]+[)]$','\g<1>3le9_example_net\g<3>'),'[.]','~d~'),';','~s~'),'last',0),'~d~','.'),'~s~',';'),'it''s')` + "\n"},
		{"of1970", "host.x", "aliasSub(groupByNodes(group(timeSlice(MtFoo.x,'0','0')),'last',1),'^','of1970.')\n"},
		{"3le9.example.net", "f(total=host.x)", "f(total=aliasSub(groupByNodes(group(timeSlice(KingPeak.x,'1795386416','1795388399')),'last',1),'^','3le9_example_net.'))\n"},
		{"3le9.example.net", "f(\nseriesByTag('dc=~a.*',\n'name=~^host\\.(a|b)'))", `f( aliasSub(aliasSub(groupByNodes(aliasSub(aliasSub(aliasSub(group(timeSlice(seriesByTag('dc=~a.*', 'name=~^KingPeak\.(a|b)'),'1795386416','1795388399'))` +
			`,'^timeSlice[(](([^.;]*[.]){0})[^.;]*(.*), [0-9]+, [0-9]+[)]$','\g<1>3le9_example_net\g<3>'),'[.]','~d~'),';','~s~'),'last',0),'~d~','.'),'~s~',';'))` + "\n"},
	} {
		out, err, code := target(tt.owner, tt.expr)
		if out != tt.want || code != exitDone {
			t.Errorf("%q %q: %d\ngot  %q %s\nwant %q", tt.owner, tt.expr, code, out, err, tt.want)
		}
	}
	for _, expr := range []string{
		"", " ", "cpu.user", "host", "host.", "hostess.cpu", "host..x", "host.x),secret(y", "host.x,secret.y", "host.x'", "host.{a,b", "host.a}b", "host.{a.b}", "host.{{a}}",
		"sum(host.x", "host(x)", "'host.x'", "host.x \" y", "host.x secret.y", "sum(host.x) secret.y", "host.x|", "host.x|secret.y", "host.x|sum(", "sum(host.x,)", "sum(,host.x)", "(host.x)", "host.x\x00", "host.\x1b[2J",
		"alias(host.x,'a\nb')", "host.x\\", "sum(host.x))", "host.a..b", ".host.x", "**.host.x", "{host,b}.x", "seriesByTag('dc=x')", "seriesByTag('name!=host.x')", "seriesByTag('name=hostess.x')", "seriesByTag('name=host')",
	} {
		if out, err, code := target("web17", expr); code != exitUsage || out != "" {
			t.Errorf("%q: got %d %q %s, want a mistake of usage", expr, code, out, err)
		}
	}
	for _, args := range [][]string{{"web99", "host.x"}, {"web17", "host.x", "--until", "2026-11-22T00:00:00Z"}} {
		if out, err, code := target(args...); code != exitDone || out != "" || !strings.Contains(err, "no name of pool") {
			t.Errorf("%q: got %d %q %q, want nothing, and a note", args, code, out, err)
		}
	}
	for _, args := range [][]string{{"web17", "host.x", "--from", "some time"}, {"web17", "host.x", "--step", "10ms"}, {"web17", "host.x", "--step", "0s"}, {"web17", "host.x", "--until", "-2h", "--from", "-1h"}} {
		if _, err, code := target(args...); code != exitUsage || !strings.Contains(err, args[2]) {
			t.Errorf("%q: got %d %q, want a mistake of usage that names the flag", args, code, err)
		}
	}
}
