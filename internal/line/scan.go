package line

import (
	"bytes"
	"encoding/binary"
	"strings"
)

// Eight bytes are looked at in one word: ones has 1 in each, tops the top bit.
const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// scan looks for bytes that matter wherever they stand: tabs, control bytes
// (those below 0x20 other than tab, and 0x7f), and bytes above 0x7f.
func scan(line []byte) (found content) {
	if len(line) < 8 {
		return scanBytes(line)
	}
	last := len(line) - 8 // the last word may overlap the one before
	all := binary.LittleEndian.Uint64(line[last:])
	suspect := suspects(all)
	for i := 0; i < last; i += 8 {
		word := binary.LittleEndian.Uint64(line[i:])
		suspect |= suspects(word)
		all |= word
	}
	if suspect&tops != 0 {
		return scanBytes(line)
	}
	if all&tops != 0 {
		return high
	}
	return 0
}

// unplain marks, with its top bit, the first byte of word that is not plain, where any is, and
// maybe others behind it: the first difference sets the bit for a blank, what is below, and 0xff;
// the sum for 0x7f to 0xfe; the second difference for a semicolon.
func unplain(word uint64) uint64 {
	return (word - 0x21*ones) | (word + ones) | (word ^ ';'*ones - ones)
}

// content tells what scan has found.
type content uint8

const (
	tab     content = 1 << iota
	control         // below 0x20 other than tab, or 0x7f
	high            // above 0x7f
)

// scanBytes is scan, a byte at a time.
func scanBytes(line []byte) (found content) {
	for _, c := range line {
		switch {
		case c == '\t':
			found |= tab
		case c < 0x20, c == 0x7f:
			found |= control
		case c > 0x7f:
			found |= high
		}
	}
	return found
}

// suspects marks, with its top bit, every byte of word that may be a control
// byte: the subtraction sets it for one below 0x20, the sum for 0x7f. A tab is
// marked for nothing, and so may be the neighbour that a borrow or a carry
// reaches.
func suspects(word uint64) uint64 {
	return ((word - 0x20*ones) | (word + ones)) &^ word
}

func isSign(c byte) bool { return c == '+' || c == '-' }

func isDigit(c byte) bool { return c-'0' <= 9 }

func isLetter(c byte) bool { return (c|0x20)-'a' < 26 }

func isBlank(c byte) bool { return c == ' ' || c == '\t' }

// isBlankLine says whether nothing but blanks and tabs stands in line.
func isBlankLine(line []byte) bool { return len(bytes.TrimLeft(line, " \t")) == 0 }

// digits returns the length of the run of digits that b starts with.
func digits(b []byte) int {
	for i, c := range b {
		if !isDigit(c) {
			return i
		}
	}
	return len(b)
}

// others marks, with its top bit, every byte of word that is no digit.
func others(word uint64) uint64 {
	values := word ^ '0'*ones // of digits
	return (values&^tops + 0x76*ones | values) & tops
}

// unsigned strips the sign, if there is one.
func unsigned(b []byte) []byte {
	if len(b) > 0 && isSign(b[0]) {
		return b[1:]
	}
	return b
}

// isDecimal says whether b is a number without a sign as C, Python and
// JavaScript write it: 1  1.  .5  1.5  1e-3  2.E+10.
func isDecimal(b []byte) bool {
	whole := digits(b)
	b = b[whole:]
	if len(b) == 0 {
		return whole > 0
	}
	if b[0] == '.' {
		part := digits(b[1:])
		b, whole = b[1+part:], whole+part
	}
	if whole > 0 && len(b) > 1 && b[0]|0x20 == 'e' {
		power := unsigned(b[1:])
		return len(power) > 0 && digits(power) == len(power)
	}
	return whole > 0 && len(b) == 0
}

// isZero says whether the decimal b is 0, whatever its power.
func isZero(b []byte) bool {
	for _, c := range b {
		switch c {
		case '0', '.':
		case 'e', 'E':
			return true
		default:
			return false
		}
	}
	return true
}

// isInfinity says whether b, which has no sign, is Python's infinity.
func isInfinity(b []byte) bool {
	return strings.EqualFold(string(b), "inf") || strings.EqualFold(string(b), "infinity")
}
