package line

import (
	"bytes"
	"encoding/binary"
	"math/bits"
)

// AppendPlain is Append for the lines of Carbon at the head of data, as long as they are
// as nearly all are (plainLine) and leave at once. It returns what is behind them: a line
// for Append, or an unfinished one. It stops when dst is longer than limit. lines counts
// what was appended, rewritten those of them that were.
func (w *Rewriter) AppendPlain(dst, data []byte, limit int) (out, rest []byte, lines, rewritten int) {
	for w.protocol == Carbon && len(dst) <= limit {
		name, end, first8 := plainLine(data)
		if end == 0 {
			break
		}
		e, cut := w.edit(data[:name])
		if e.judge(end-1, cut) > Free || first8 <= w.floorDigits && w.isEarlier(e, data[end-11:end-1]) {
			break
		}
		dst = append(dst, e.head...)
		dst = append(dst, data[cut:end]...)
		data = data[end:]
		lines++
		if e.result == Rewritten {
			rewritten++
		}
	}
	return dst, data, lines, rewritten
}

// plainLine returns the length of the name, and of all with its '\n', of the first line
// of data: a name that isUsual, maybe with tags behind it that Graphite can read, a number
// like 1, -1 or 1.5, and a timestamp of ten digits, with single blanks between. end is 0 for
// any other line, which may be as sound. first8 are the first eight digits of the timestamp,
// as a number that begins with the first. A time that may be past the last second is not
// plain. No more is looked at than the longest of such names.
func plainLine(data []byte) (name, end int, first8 uint64) {
	near := data[:min(len(data), maxNode+8)]
	for {
		if len(near)-name < 8 {
			return 0, 0, 0
		}
		if bad := unplain(binary.LittleEndian.Uint64(near[name:])) & tops; bad != 0 {
			name += bits.TrailingZeros64(bad) / 8
			break
		}
		name += 8
	}
	if name > 0 && data[name] == ';' {
		tags := near[name:][:max(bytes.IndexByte(near[name:], ' '), 0)]
		if _, ok := readTags(tags); !ok || scan(tags) != 0 {
			return 0, 0, 0
		}
		name += len(tags)
	}
	if data[name] != ' ' || !hasUsualEnds(data[:name]) {
		return 0, 0, 0
	}
	value := plainValue(data[name+1:])
	begin := name + 1 + value + 1
	end = begin + len("1763848800\n")
	if value == 0 || end > len(data) {
		return 0, 0, 0
	}
	stamp := data[begin:end]
	first8 = binary.BigEndian.Uint64(stamp)
	last8 := binary.BigEndian.Uint64(stamp[3:])
	if others(first8) != 0 || others(last8) != 0x80 || stamp[10] != '\n' || first8 >= lastDigits {
		return 0, 0, 0
	}
	return name, end, first8
}

// plainValue returns the length of the number that b begins with, if it is one like 1, -1
// or 1.5, and a blank and more than eight bytes follow; otherwise 0.
func plainValue(b []byte) int {
	n := len(b) - len(unsigned(b))
	begin, dotted := n, false
	for len(b)-n >= 8 {
		bad := others(binary.LittleEndian.Uint64(b[n:]))
		if bad == 0 {
			n += 8
			continue
		}
		n += bits.TrailingZeros64(bad) / 8
		if b[n] == ' ' && n > begin {
			return n
		}
		if b[n] != '.' || n == begin || dotted {
			return 0
		}
		dotted = true
		n++
	}
	return 0
}
