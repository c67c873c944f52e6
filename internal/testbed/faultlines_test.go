package testbed

import (
	"strings"
	"testing"
)

// A line is read as it was written, and no other way: one that lacks a byte, or
// is made of two, is none.
func TestNumberedLine(t *testing.T) {
	for _, n := range []numbered{
		{carbon: true, stream: 0, seq: 0, sent: 1_700_000_000_007},
		{carbon: true, stream: 12, seq: 123_456, sent: 1_700_000_000_120},
		{stream: 3, seq: 9},
	} {
		ln := strings.TrimSuffix(string(n.append(nil, nameArrived)), "\n")
		if got, ok := parseNumbered([]byte(ln)); !ok || got != n {
			t.Errorf("%q is read as %+v, %v; want %+v", ln, got, ok, n)
		}
		for i := range ln {
			if got, ok := parseNumbered([]byte(ln[:i] + ln[i+1:])); ok {
				t.Errorf("%q without byte %d is read as %+v, want no line", ln, i, got)
			}
		}
	}
}

// What may be missing of a stream, and what not.
func TestStreamProblem(t *testing.T) {
	const lines, size = 10, 100
	for _, tt := range []struct {
		what    string
		carbon  bool
		fate    fate
		bound   int
		arrived string // digits of the lines, in order
		says    string // in the problem; "": none
	}{
		{"all", true, whole, 0, "0123456789", ""},
		{"all, doubled", true, whole, 0, "01230123456789", ""},
		{"the last, of a connection that ended well", true, whole, size, "012345678", "1 lines are lost, the first is 9"},
		{"the last, of a connection that is open", true, unended, size, "012345678", "1 lines are lost"},
		{"the last, of one that broke", true, broken, 2 * size, "01234567", ""},
		{"more than the sockets hold", true, broken, 2 * size, "0123456", "more than two socket buffers hold"},
		{"all, more than the sockets hold", true, broken, 9 * size, "", "more than two socket buffers hold"},
		{"a gap", true, broken, lines * size, "012346789", "a gap at line 5"},
		{"the first", true, broken, lines * size, "123456789", "a gap at line 0"},
		{"statsd, half", false, broken, 0, "02468", ""},
		{"statsd, doubled", false, broken, 0, "022", "1 lines arrived again"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			var l tallier
			s := l.open(tt.carbon, false)
			l.wrote(s, lines, lines*size)
			l.end(s, tt.fate, tt.bound)
			for _, digit := range tt.arrived {
				l.take(0, numbered{carbon: tt.carbon, stream: s.id, seq: uint32(digit - '0')}.append(nil, nameArrived))
			}
			got := strings.Join(l.problems(0), "\n")
			if tt.says == "" && got != "" || !strings.Contains(got, tt.says) {
				t.Errorf("the problem is %q, want %q", got, tt.says)
			}
		})
	}
}

// Lines that nobody sent are seen.
func TestGarbledLines(t *testing.T) {
	for _, line := range []string{
		"", "other 1 2", "host.f.0.1 1 1700000000.000",
		string(numbered{carbon: true, stream: 1}.append(nil, nameArrived)), // there is no such stream
		string(numbered{stream: 0}.append(nil, nameArrived)),               // nor one of that protocol
	} {
		var l tallier
		l.open(true, false)
		l.take(0, []byte(strings.TrimSuffix(line, "\n")+"\n"))
		if got := strings.Join(l.problems(0), "\n"); !strings.Contains(got, "1 lines arrived that nobody sent") {
			t.Errorf("%q: the problem is %q, want that nobody sent it", line, got)
		}
	}
}

// Live lines and those of the backlog are told apart by when they were sent.
func TestDrainOfABacklog(t *testing.T) {
	d := drain{end: 1_000_000}
	for i := range int64(500) {
		d.take(d.end-5000+i, d.end+10*(i+1)) // one each 10 ms
	}
	for i := range int64(99) {
		d.take(d.end+4000+i, d.end+5000)
	}
	d.take(d.end, d.end+9000)
	if d.backlog != 500 || d.rate() != 100 {
		t.Errorf("a backlog of %d lines, %d lines/s; want 500, 100", d.backlog, d.rate())
	}
	if got := median(d.waited); len(d.waited) != 100 || got != 95 {
		t.Errorf("half of %d live lines waited for %d of the backlog; want 100, and 95", len(d.waited), got)
	}
	if got := median(d.ages); got != 951 {
		t.Errorf("half of the live lines were under way for %d ms, want 951", got)
	}
}
