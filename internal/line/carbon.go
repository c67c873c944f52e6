package line

import (
	"bytes"
	"strconv"
	"unicode/utf8"
)

// The measure for Carbon is carbon-cache 1.1:
//
//	https://github.com/graphite-project/carbon/blob/1.1.7/lib/carbon/protocols.py  MetricLineReceiver, metricReceived
//
// It closes the connection on invalid UTF-8 (the decoding stands outside its
// try) and on a timestamp that is infinite or no number (int() does); other bad
// lines it logs and skips.

// appendCarbon is Append for Carbon.
func (w *Rewriter) appendCarbon(dst, line []byte, now int64) ([]byte, Result) {
	if name := line[:plainCarbon(line)]; hasPath(name) && scan(name) == 0 {
		return w.edit(name).append(dst, line)
	}
	found := scan(line)
	if found&control != 0 {
		return dst, Control
	}
	if found&high != 0 && !utf8.Valid(line) {
		return dst, BadUTF8
	}
	tabs := found&tab != 0
	name, rest := field(line, tabs)
	value, rest := field(rest, tabs)
	stamp, rest := field(rest, tabs)
	if more, _ := field(rest, tabs); len(stamp) == 0 || len(more) > 0 {
		return dst, BadFields
	}
	if !hasPath(name) {
		return dst, EmptyPath
	}
	if !isValue(value) {
		return dst, BadValue
	}
	finite, unset := readStamp(stamp)
	if !finite {
		return dst, BadTimestamp
	}
	var buf [20]byte
	if unset {
		stamp = strconv.AppendInt(buf[:0], now, 10)
	}
	return w.edit(name).appendFields(dst, name, value, stamp)
}

// plainCarbon returns the length of the name of a line that is as nearly all
// are: a name, a value and a timestamp, in plain digits, with single blanks
// between. It returns 0 for any other, which may be as sound. What it has not
// looked at is the name.
func plainCarbon(line []byte) (name int) {
	name = bytes.IndexByte(line, ' ')
	if name < 0 {
		return 0
	}
	rest := line[name+1:]
	value := plainNumber(rest)
	if value == 0 || value == len(rest) || rest[value] != ' ' {
		return 0
	}
	stamp := rest[value+1:]
	if len(stamp) == 0 || len(stamp) > maxFiniteDigits || digits(stamp) != len(stamp) {
		return 0
	}
	return name
}

// appendFields applies e to the line that the three fields make.
func (e *edit) appendFields(dst, name, value, stamp []byte) ([]byte, Result) {
	if r := e.judge(len(name) + 1 + len(value) + 1 + len(stamp)); !r.Appended() {
		return dst, r
	}
	dst = append(dst, e.head...)
	dst = append(dst, name[e.cut:]...)
	dst = append(dst, ' ')
	dst = append(dst, value...)
	dst = append(dst, ' ')
	dst = append(dst, stamp...)
	return append(dst, '\n'), e.result
}

// field returns the first field of line, empty if there is none, and what
// follows it. tabs says that tabs may stand between fields, too.
func field(line []byte, tabs bool) (field, rest []byte) {
	for len(line) > 0 && isBlank(line[0]) {
		line = line[1:]
	}
	end := bytes.IndexByte(line, ' ')
	if end < 0 {
		end = len(line)
	}
	if tabs {
		if at := bytes.IndexByte(line[:end], '\t'); at >= 0 {
			end = at
		}
	}
	return line[:end], line[end:]
}

// isValue says whether Python's float() reads value as a number, and not as
// NaN, which Carbon discards.
func isValue(value []byte) bool {
	magnitude := unsigned(value)
	return isDecimal(magnitude) || isInfinity(magnitude)
}

// readStamp says whether stamp is a finite decimal number, and whether it is
// one that Carbon takes for "now": -1, after int() has cut off its fraction.
func readStamp(stamp []byte) (finite, unset bool) {
	if len(stamp) <= maxFiniteDigits && digits(stamp) == len(stamp) {
		return true, false
	}
	if string(stamp) == "-1" {
		return true, true
	}
	if !isDecimal(unsigned(stamp)) {
		return false, false
	}
	seconds, err := strconv.ParseFloat(string(stamp), 64)
	return err == nil, -2 < seconds && seconds <= -1
}

// maxFiniteDigits is how many digits a float64 holds, whichever they are.
const maxFiniteDigits = 308
