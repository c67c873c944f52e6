package line

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
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
	if len(name) == 0 {
		return dst, Empty
	}
	if more, _ := field(rest, tabs); len(stamp) == 0 || len(more) > 0 {
		return dst, BadFields
	}
	if !hasPath(name) || found&high != 0 && !hasPath(name[Carbon.blanks(name):]) {
		return dst, EmptyPath
	}
	if !isValue(value) {
		return dst, BadValue
	}
	sound, unset := readStamp(stamp)
	if !sound {
		return dst, BadTimestamp
	}
	var buf [20]byte
	if unset {
		stamp = strconv.AppendInt(buf[:0], now, 10)
	}
	e, cut := w.edit(name)
	if w.isEarlier(e, stamp) {
		return dst, Earlier
	}
	out, result := e.appendFields(dst, name, value, stamp, cut)
	return checkName(dst, out, result)
}

// isUsual says whether there is nothing in name, which has no blanks, to look at closely: it is
// short, of plain bytes, and has no tags and no '~' in front.
func isUsual(name []byte) bool {
	return hasUsualEnds(name) && scan(name) == 0 && bytes.IndexByte(name, ';') < 0
}

// hasUsualEnds is isUsual but for the bytes between.
func hasUsualEnds(name []byte) bool {
	n := len(name)
	return 0 < n && n <= maxNode && name[0] != '~' && name[n-1] != '}'
}

// checkName takes back what was appended to dst, if carbon can have no file for the name
// that leaves, or graphite-web no tags.
func checkName(dst, out []byte, result Result) ([]byte, Result) {
	if !result.Appended() || result == Held {
		return out, result
	}
	name := out[len(dst):]
	name = name[:bytes.IndexByte(name, ' ')]
	if isUsual(name) {
		return out, result
	}
	if path, tagged, ok := series(name); !ok || !tagged && len(path) > maxNode && !Carbon.isStorable(path) {
		return dst, BadPath
	}
	return out, result
}

// lastSecond is the last that whisper can store: a point behind it makes carbon's
// writer fail, for all points of the series that it has in memory.
const lastSecond = math.MaxUint32

// lastDigits are the first eight digits of lastSecond.
const lastDigits = '4'<<56 | '2'<<48 | '9'<<40 | '4'<<32 | '9'<<24 | '6'<<16 | '7'<<8 | '2'

// digitsOfFloor returns what a line's first8 must be above for the line to be surely not before
// floor: the one comparison that it costs.
func digitsOfFloor(floor int64) uint64 {
	return binary.BigEndian.Uint64(fmt.Appendf(nil, "%010d", min(max(floor, 0), 1e10-1)))
}

// isEarlier says whether a line with this sound timestamp is before the floor
// and e binds it to the name.
func (w *Rewriter) isEarlier(e *edit, stamp []byte) bool {
	return e.result <= Named && w.floor > math.MinInt64 && seconds(stamp) < w.floor
}

// Timestamp returns the time of a Carbon line that Append has not refused, in
// whole Unix seconds as Carbon takes it: its fraction is cut off, and -1 is now.
func Timestamp(line []byte, now int64) int64 {
	tabs := bytes.IndexByte(line, '\t') >= 0
	_, rest := field(line, tabs)
	_, rest = field(rest, tabs)
	stamp, _ := field(rest, tabs)
	if _, unset := readStamp(stamp); unset {
		return now
	}
	return seconds(stamp)
}

// seconds returns a sound timestamp as a whole number.
func seconds(stamp []byte) int64 {
	if len(stamp) <= 15 && digits(stamp) == len(stamp) { // no float is needed
		var n int64
		for _, c := range stamp {
			n = 10*n + int64(c-'0')
		}
		return n
	}
	s, _ := strconv.ParseFloat(string(stamp), 64)
	return int64(s)
}

// appendFields applies e to the line that the three fields make.
func (e *edit) appendFields(dst, name, value, stamp []byte, cut int) ([]byte, Result) {
	if r := e.judge(len(name)+1+len(value)+1+len(stamp), cut); !r.Appended() {
		return dst, r
	}
	dst = append(dst, e.head...)
	dst = append(dst, name[cut:]...)
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

// readStamp says whether stamp is a decimal number whose whole seconds, as int()
// cuts them, whisper can store, and whether it is one that Carbon takes for "now":
// -1.
func readStamp(stamp []byte) (sound, unset bool) {
	if len(stamp) <= 10 && digits(stamp) == len(stamp) {
		return len(stamp) > 0 && seconds(stamp) <= lastSecond, false
	}
	if string(stamp) == "-1" {
		return true, true
	}
	if !isDecimal(unsigned(stamp)) {
		return false, false
	}
	seconds, _ := strconv.ParseFloat(string(stamp), 64) // an infinity where it is too much for one
	seconds = math.Trunc(seconds)
	return -1 <= seconds && seconds <= lastSecond, seconds == -1
}
