package aggregate

import (
	"bytes"
	"math"
	"math/big"
	"strconv"
	"strings"
	"unsafe"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// The standard is statsd 0.9's handlePacket and is_valid_packet:
//
//	https://github.com/statsd/statsd/blob/v0.9.0/stats.js
//
// A line is a name and then metrics, each after a ':': values|type|fields. A value without a
// type has the type of the next one that has one (DogStatsD's packed values). Fields are a
// rate, and what DogStatsD adds.

var (
	dot       = []byte(".")
	colon     = []byte(":")
	semicolon = []byte(";")
	newline   = []byte("\n")
	tagStart  = []byte("|#")
	container = []byte("|c:")
	zero      = []byte("0")
)

// cut is bytes.Cut for a byte, which is faster.
func cut(b []byte, sep byte) (before, after []byte) {
	if i := bytes.IndexByte(b, sep); i >= 0 {
		return b[:i], b[i+1:]
	}
	return b, nil
}

// tagsOf returns DogStatsD's tags of a line, without "#".
func tagsOf(metrics []byte) (tags []byte) {
	if i := bytes.Index(metrics, tagStart); i >= 0 {
		tags, _ = cut(metrics[i+2:], '|')
	}
	return tags
}

// A kind stands for all types whose values are kept in the same way.
type kind uint8

const (
	noKind kind = iota
	counterKind
	gaugeKind
	timerKind
	setKind
)

// A metric is some values of one type.
type metric struct {
	values []byte // "1", or "1:2:3"
	typ    []byte
	kind   kind
	weight float64 // 1/rate
	sound  bool    // its fields are as they should be
}

// nextMetric cuts the first metric off what follows a line's name.
func nextMetric(in []byte) (m metric, rest []byte) {
	m = metric{weight: 1, sound: true}
	bar := bytes.IndexByte(in, '|')
	if bar < 0 {
		return metric{values: in, weight: 1}, nil
	}
	m.values = in[:bar]
	m.typ, rest = cutField(in[bar+1:], false)
	m.kind = kindOf(m.typ)
	rated := false
	for i := 0; len(rest) > 0 && rest[0] == '|'; i++ {
		var f []byte
		f, rest = cutField(rest[1:], true)
		switch {
		case isDogStatsD(f):
		case len(f) > 1 && f[0] == '@' && !rated:
			rate, ok := number(f[1:])
			m.weight, m.sound, rated = 1/rate, m.sound && ok && rate > 0, true
		case i == 0: // where statsd wants a rate; what stands behind one, it passes over
			m.sound = false
		}
	}
	if len(rest) > 0 {
		rest = rest[1:] // the ':' before the next metric
	}
	return m, rest
}

// eachValue calls f for all values that follow a line's name, with the reason why one is not sound.
func eachValue(in []byte, f func(k kind, text []byte, v, weight float64, why line.Result)) {
	for len(in) > 0 {
		var m metric
		m, in = nextMetric(in)
		for text := range bytes.SplitSeq(m.values, colon) {
			v, why := m.read(text)
			f(m.kind, text, v, m.weight, why)
		}
	}
}

// A plain metric is one as most are: "12|c", "0.5|ms|@0.1", "+1|g", "bob|s".
type plain struct {
	value, weight float64 // weight: 1/rate
	kind          kind
	text, length  int32 // how long the text of the value is, and all of it
}

// read reads the plain metric that b begins with. ok is false, and the kind noKind, if there is
// none.
func (m *plain) read(b []byte) (ok bool) {
	m.kind = noKind
	n := 0
	signed := len(b) > 0 && (b[0] == '+' || b[0] == '-')
	if signed {
		n = 1
	}
	v, digits := decimal(b[n:])
	if n += digits; digits == 0 {
		n = bytes.IndexByte(b, '|')
		if n < 0 || n+1 == len(b) || b[n+1] != 's' || bytes.IndexByte(b[:n], ':') >= 0 {
			return false
		}
	}
	if n+1 >= len(b) || b[n] != '|' {
		return false
	}
	k := letters[b[n+1]]
	if b[0] == '-' {
		v = -v
	}
	m.value, m.weight, m.text = v, 1, int32(n)
	if n += 2; b[n-1] == 'm' && n < len(b) && b[n] == 's' {
		k, n = timerKind, n+1
	}
	if k == noKind || signed && k != gaugeKind && k != setKind {
		return false
	}
	if n+1 < len(b) && b[n] == '|' && b[n+1] == '@' {
		rate, digits := decimal(b[n+2:])
		if rate == 0 {
			return false
		}
		m.weight = 1 / rate
		n += 2 + digits
	}
	m.kind, m.length = k, int32(n)
	return true
}

// letters are the types of one letter.
var letters = [256]kind{'c': counterKind, 'm': counterKind, 'g': gaugeKind, 'h': timerKind, 'd': timerKind, 's': setKind}

// plainTags returns the tags, with "|#", that are all of what follows a plain metric, but for
// the id of a container. ok is false if there is more.
func plainTags(b []byte) (tags []byte, ok bool) {
	rest := b
	if bytes.HasPrefix(b, tagStart) {
		end := bytes.IndexByte(b[1:], '|') + 1
		if end == 0 {
			return b, true
		}
		tags, rest = b[:end], b[end:]
	}
	return tags, len(rest) == 0 || bytes.HasPrefix(rest, container) && bytes.IndexByte(rest[1:], '|') < 0
}

// read reads one of its values. A set takes any text, unless there are blanks around its type.
func (m *metric) read(text []byte) (v float64, why line.Result) {
	if m.kind == noKind {
		return 0, line.NoPoint
	}
	ok := true
	if m.kind != setKind || string(m.typ) != "s" {
		v, ok = number(text)
	}
	if !ok || !m.sound || v < 0 && string(m.typ) == "ms" || m.kind == counterKind && !isFinite(v*m.weight) || !isFinite(m.weight) {
		return 0, line.BadValue
	}
	return v, line.Rewritten
}

func isFinite(v float64) bool { return v-v == 0 }

// cutField returns what comes before the next '|' or ':'. A field of DogStatsD's may contain
// a ':'.
func cutField(in []byte, dog bool) (field, rest []byte) {
	ends := "|:"
	if dog && isDogStatsD(in) && in[0] != 'T' {
		ends = "|"
	}
	if i := bytes.IndexAny(in, ends); i >= 0 {
		return in[:i], in[i:]
	}
	return in, nil
}

func isDogStatsD(f []byte) bool {
	for _, start := range [...]string{"#", "T", "c:", "e:", "card:"} {
		if len(f) >= len(start) && string(f[:len(start)]) == start {
			return true
		}
	}
	return false
}

// kindOf reads a type. statsd allows blanks around it.
func kindOf(typ []byte) kind {
	typ = trim(typ)
	if len(typ) == 1 {
		return letters[typ[0]]
	}
	if string(typ) == "ms" {
		return timerKind
	}
	return noKind
}

func trim(b []byte) []byte { return bytes.TrimFunc(b, line.IsScriptSpace) }

// number reads b as JavaScript's Number does; ok is false where the result is not a finite
// number, or b is empty.
func number(b []byte) (v float64, ok bool) {
	if len(b) == 0 {
		return 0, false
	}
	if v, n := decimal(b); n == len(b) {
		return v, true
	}
	b = trim(b)
	if len(b) == 0 {
		return 0, true // to JavaScript
	}
	s := unsafe.String(&b[0], len(b)) // read before b changes
	for _, c := range b {
		if (c < '0' || c > '9') && c != '.' && c != '-' && c != '+' && c|0x20 != 'e' {
			return radix(s)
		}
	}
	v, err := strconv.ParseFloat(s, 64)
	return v, err == nil && !math.IsInf(v, 0)
}

// decimal reads the number that b begins with, where that is as most are: digits, maybe a
// dot among them, 15 bytes in all. n is how long it is; 0 where it is another. What it
// divides is exact twice, and so the result is rounded once, as all others.
func decimal(b []byte) (v float64, n int) {
	var digits, scale uint64
	for ; n < len(b); n++ {
		if c := b[n] - '0'; c <= 9 {
			digits, scale = digits*10+uint64(c), scale*10
		} else if b[n] == '.' && scale == 0 {
			scale = 1
		} else {
			break
		}
	}
	switch {
	case n > 15 || scale == 1:
		return 0, 0
	case scale > 1:
		return float64(digits) / float64(scale), n
	}
	return float64(digits), n
}

// radix reads 0x1f, 0o17 and 0b11.
func radix(s string) (v float64, ok bool) {
	whole, ok := new(big.Int).SetString(s, 0)
	if !ok || s[0] != '0' || strings.Contains(s, "_") {
		return 0, false
	}
	v, _ = whole.Float64()
	return v, isFinite(v)
}

// appendNumber writes v as JavaScript's String does.
func appendNumber(dst []byte, v float64) []byte {
	switch abs := math.Abs(v); {
	case v == 0:
		return append(dst, '0')
	case math.IsInf(v, 1):
		return append(dst, "Infinity"...)
	case math.IsInf(v, -1):
		return append(dst, "-Infinity"...)
	case abs >= 1e-6 && abs < 1e21:
		return strconv.AppendFloat(dst, v, 'f', -1, 64)
	}
	dst = strconv.AppendFloat(dst, v, 'e', -1, 64)
	if n := len(dst); dst[n-2] == '0' && dst[n-3] == '-' { // e-07 is e-7 there
		dst[n-2] = dst[n-1]
		dst = dst[:n-1]
	}
	return dst
}
