package aggregate

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// mark stands for the name of the host in lines and points.
var mark = line.Mark[0]

// A series is what Graphite stores as one. Its name, here, begins after the mark and a dot:
// statsd's sanitizeKeyName, without empty nodes, with sorted tags. "x.y;a=1;b=2".

// The longest names for which carbon can create files, with what a layout adds.
const (
	maxNode  = 250
	maxName  = 3500
	maxNodes = 900
)

// isPlain marks the bytes that statsd and carbon leave as they are.
var isPlain = func() (t [256]bool) {
	for c := range t {
		b := byte(c)
		t[c] = 'a' <= b|0x20 && b|0x20 <= 'z' || '0' <= b && b <= '9' || b == '_' || b == '-' || b == '='
	}
	return t
}()

// A canonicalizer makes the names of series.
type canonicalizer struct {
	dropTags         bool
	name, tags, text []byte
	spans            []span // of text
}

// of returns the name of a series, valid until the next call. dog are DogStatsD's tags,
// without "#". That of a name is the same.
func (c *canonicalizer) of(raw, dog []byte) []byte {
	path, own := cut(raw, ';')
	c.name = appendPath(c.name[:0], path)
	if !c.dropTags {
		c.addTags(own, dog)
	}
	return c.name
}

// isStorable says whether carbon can have a file for what a layout makes of name.
func isStorable(name []byte) bool {
	path, _, tagged := bytes.Cut(name, semicolon)
	if len(name) > maxName {
		return false
	}
	if tagged {
		return true // it is stored under its hash
	}
	nodes := 0
	for node := range bytes.SplitSeq(path, dot) {
		if nodes++; len(node) > maxNode || nodes > maxNodes {
			return false
		}
	}
	return true
}

// appendPath appends a path without what statsd removes, and without empty nodes.
func appendPath(dst, path []byte) []byte {
	begin := len(dst)
	dst = appendClean(dst, path)
	kept := dst[:begin]
	for _, c := range dst[begin:] {
		if c != '.' || len(kept) > begin && kept[len(kept)-1] != '.' {
			kept = append(kept, c)
		}
	}
	if n := len(kept); n > begin && kept[n-1] == '.' {
		kept = kept[:n-1]
	}
	return kept
}

// appendClean is statsd's sanitizeKeyName.
func appendClean(dst, text []byte) []byte {
	for len(text) > 0 {
		c := text[0]
		if isPlain[c] || c == '.' || c == ';' {
			dst, text = append(dst, c), text[1:]
			continue
		}
		if c == '/' {
			dst, text = append(dst, '-'), text[1:]
			continue
		}
		if rest := bytes.TrimLeftFunc(text, isScriptSpace); len(rest) < len(text) {
			dst, text = append(dst, '_'), rest
			continue
		}
		_, size := utf8.DecodeRune(text)
		text = text[size:]
	}
	return dst
}

// A span is where a tag stands in a text: key from..eq, value eq+1..to.
type span struct{ from, eq, to int }

// addTags adds the tags of a name and DogStatsD's, as Carbon takes what statsd makes of
// them: sorted, and the last of several with one key. It leaves out those without a value,
// which Carbon refuses, and "name", which Carbon uses for the path.
func (c *canonicalizer) addTags(own, dog []byte) {
	c.tags = append(c.tags[:0], own...)
	for len(dog) > 0 {
		var one []byte
		one, dog = cut(dog, ',')
		begin := len(c.tags) + 1
		c.tags = append(append(c.tags, ';'), one...)
		replaceFirst(c.tags[begin:], ';', '_')
		replaceFirst(c.tags[begin:], ':', '=')
	}
	c.text, c.spans = appendClean(c.text[:0], c.tags), c.spans[:0]
	for from := 0; from < len(c.text); {
		one, _ := cut(c.text[from:], ';')
		to := from + len(one)
		if eq := from + bytes.IndexByte(one, '='); from < eq && eq+1 < to && string(c.text[from:eq]) != "name" {
			c.spans = append(c.spans, span{from, eq, to})
		}
		from = to + 1
	}
	key := func(s span) []byte { return c.text[s.from:s.eq] }
	slices.SortStableFunc(c.spans, func(x, y span) int { return bytes.Compare(key(x), key(y)) })
	for i, s := range c.spans {
		if i+1 == len(c.spans) || !bytes.Equal(key(s), key(c.spans[i+1])) {
			c.name = append(append(c.name, ';'), c.text[s.from:s.to]...)
		}
	}
}

func replaceFirst(b []byte, old, new byte) {
	if i := bytes.IndexByte(b, old); i >= 0 {
		b[i] = new
	}
}
