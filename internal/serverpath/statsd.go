package serverpath

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// A Packet is how statsd understands a line, or a part of one that contains line ends.
type Packet struct {
	Key  string   // of the metrics: the name, and tags behind a ';'
	Bits []string // each a value, a type, and a rate, with '|' between
}

// StatsD returns how statsd understands a line. Its TCP server reads ASCII.
func StatsD(line string, byTCP bool) (packets []Packet) {
	text := strings.ToValidUTF8(line, "\ufffd") // Buffer.toString()
	if byTCP {
		ascii := []byte(line)
		for i := range ascii {
			ascii[i] &= 0x7f
		}
		text = string(ascii)
	}
	for _, line := range strings.Split(text, "\n") {
		if line == "" {
			continue
		}
		parts := strings.Split(line, "|#")
		bits := strings.Split(parts[0], ":")
		key := bits[0]
		if len(parts) > 1 && parts[1] != "" {
			tags := strings.Split(parts[1], ",")
			for i := range tags {
				tags[i] = strings.Replace(strings.Replace(tags[i], ";", "_", 1), ":", "=", 1)
			}
			key += ";" + strings.Join(tags, ";")
		}
		packets = append(packets, Packet{sanitize(key), bits[1:]})
	}
	return packets
}

// sanitize is sanitizeKeyName.
func sanitize(key string) string {
	var b strings.Builder
	inSpace := false
	for _, r := range key { // .replace(/\s+/g, '_')
		space := isSpace(r)
		switch {
		case space && !inSpace:
			b.WriteByte('_')
		case !space:
			b.WriteRune(r)
		}
		inSpace = space
	}
	return strings.Map(func(r rune) rune { // .replace(/\//g, '-').replace(/[^a-zA-Z_\-0-9\.;=]/g, '')
		switch {
		case r == '/':
			return '-'
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', strings.ContainsRune("_-.;=", r):
			return r
		}
		return -1
	}, b.String())
}

// isSpace is JavaScript's \s.
func isSpace(r rune) bool {
	return r == '\ufeff' || r != '\u0085' && unicode.IsSpace(r)
}

// Counts reports whether any metric of the packet is accepted; typ is the type of the first that is:
// "ms", "g", "s", or that of a counter.
func (p Packet) Counts() (typ string, ok bool) {
	for _, bit := range p.Bits {
		fields := strings.Split(bit, "|")
		if len(fields) < 2 || len(fields) > 2 && !isRate(fields[2]) {
			continue
		}
		if fields[1] == "s" || isNumber(fields[0]) {
			return strings.TrimFunc(fields[1], isSpace), true
		}
	}
	return "", false
}

func isRate(s string) bool { return len(s) > 1 && s[0] == '@' && s[1] != '-' && isNumber(s[1:]) }

var number = regexp.MustCompile(`^[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?$|^[-+]?Infinity$|^0[xX][0-9a-fA-F]+$|^0[oO][0-7]+$|^0[bB][01]+$|^$`)

// isNumber is that of helpers.js: whether Number() accepts s.
func isNumber(s string) bool { return s != "" && number.MatchString(strings.TrimFunc(s, isSpace)) }

// objectNames are Object.getOwnPropertyNames(Object.prototype).
var objectNames = strings.Fields(`constructor __defineGetter__ __defineSetter__ hasOwnProperty __lookupGetter__
	__lookupSetter__ isPrototypeOf propertyIsEnumerable toString valueOf __proto__ toLocaleString`)

var rateDigits = regexp.MustCompile(`^@[\d.]+`)

// Kills reports whether the packet ends statsd, by an exception that nobody catches.
func (p Packet) Kills() bool {
	for _, bit := range p.Bits {
		fields := strings.Split(bit, "|")
		if len(fields) > 2 && isRate(fields[2]) && !rateDigits.MatchString(fields[2]) {
			if fields[1] == "s" || isNumber(fields[0]) {
				return true // null[1]
			}
		}
	}
	typ, ok := p.Counts()
	if !ok || typ != "ms" && typ != "s" {
		return false
	}
	return slices.Contains(objectNames, p.Key) // a function has no push and no insert
}
