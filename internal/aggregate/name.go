package aggregate

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// mark stands for the name of the host in lines and points.
var mark = line.Mark[0]

// A series is what Graphite stores as one. Its name here begins behind the mark and a
// dot: statsd's sanitizeKeyName, without empty nodes, its tags sorted. "x.y;a=1;b=2".

// The longest names that carbon can make files for, with what a layout adds.
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

// canonical returns the name of a series, valid until the next call. tags are
// DogStatsD's, without "#".
func (a *Aggregator) canonical(raw, tags []byte) (name []byte) {
	path, own, _ := bytes.Cut(raw, []byte(";"))
	a.name = appendPath(a.name[:0], path)
	if a.cfg.Tags == GraphiteTags {
		a.name = a.appendTags(a.name, own, tags)
	}
	return a.name
}

// isCanonical says whether a name is as Graphite stores it, surely.
func isCanonical(name []byte) bool {
	node := 0
	for _, c := range name {
		if isPlain[c] {
			node++
			continue
		}
		if c != '.' || node == 0 || node > maxNode {
			return false
		}
		node = 0
	}
	return node > 0 && node <= maxNode && len(name) <= maxNodes
}

// isStorable says whether carbon can have a file for what a layout makes of name.
func isStorable(name []byte) bool {
	path, _, tagged := bytes.Cut(name, []byte(";"))
	if len(name) > maxName {
		return false
	}
	if tagged {
		return true // it is stored under its hash
	}
	nodes := 0
	for node := range bytes.SplitSeq(path, []byte(".")) {
		if nodes++; len(node) > maxNode || nodes > maxNodes {
			return false
		}
	}
	return true
}

// appendPath appends a path without what statsd cuts, and without empty nodes.
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

// appendTags appends the tags of a name and DogStatsD's, sorted. What has no value is
// left away, since Carbon refuses it; of two with one key the last counts.
func (a *Aggregator) appendTags(dst, own, dog []byte) []byte {
	text, tags := a.tagText[:0], a.tags[:0]
	add := func(tag []byte) {
		begin := len(text)
		text = appendClean(text, tag)
		if key, value, ok := bytes.Cut(text[begin:], []byte("=")); ok && len(key) > 0 && len(value) > 0 {
			tags = slices.DeleteFunc(tags, func(t tagSpan) bool { return string(text[t.from:t.eq]) == string(key) })
			tags = append(tags, tagSpan{begin, begin + len(key), len(text)})
		}
	}
	for len(own) > 0 {
		var tag []byte
		tag, own, _ = bytes.Cut(own, []byte(";"))
		add(tag)
	}
	for len(dog) > 0 && len(tags) < maxTags {
		var tag []byte
		tag, dog, _ = bytes.Cut(dog, []byte(","))
		scratch := append(a.oneTag[:0], tag...)
		for i, c := range scratch {
			if c == ';' {
				scratch[i] = '_'
			}
		}
		if i := bytes.IndexByte(scratch, ':'); i >= 0 {
			scratch[i] = '='
		}
		add(scratch)
		a.oneTag = scratch
	}
	slices.SortFunc(tags, func(x, y tagSpan) int { return bytes.Compare(text[x.from:x.eq], text[y.from:y.eq]) })
	for _, t := range tags {
		dst = append(append(dst, ';'), text[t.from:t.to]...)
	}
	a.tagText, a.tags = text, tags
	return dst
}

// maxTags bounds the tags of a line: the keys of all are compared with each other.
const maxTags = 64

// A tagSpan is where a tag stands in a text: key from..eq, value eq+1..to.
type tagSpan struct{ from, eq, to int }
