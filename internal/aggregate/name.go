package aggregate

import (
	"bytes"
	"slices"

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

// isStorable says whether carbon can have a file for what a layout makes of name.
func isStorable(name []byte) bool {
	path, _, tagged := bytes.Cut(name, semicolon)
	return len(name) <= maxName && (tagged || bytes.Count(path, dot) < maxNodes && line.IsStorable(path)) // a file is named by a hash of tags
}

// A canonicalizer makes the names of series.
type canonicalizer struct {
	dropTags  bool
	key, name []byte
	tags      [][]byte // of key
}

// of returns the name of a series, valid until the next call. dog are DogStatsD's tags,
// without "#". That of a name is the same.
func (c *canonicalizer) of(raw, dog []byte) []byte {
	c.key = line.AppendKey(c.key[:0], raw, dog)
	path, tags := cut(c.key, ';')
	c.name = c.name[:0]
	for node := range bytes.SplitSeq(path, dot) {
		if len(node) > 0 {
			c.name = append(append(c.name, node...), '.')
		}
	}
	c.name = bytes.TrimSuffix(c.name, dot)
	if !c.dropTags {
		c.addTags(tags)
	}
	return c.name
}

// addTags adds tags as Carbon takes them: sorted, and the last of several with one key. It leaves
// out those without a value, which Carbon refuses, and "name", which Carbon uses for the path.
func (c *canonicalizer) addTags(tags []byte) {
	c.tags = c.tags[:0]
	for tag := range bytes.SplitSeq(tags, semicolon) {
		if key, value := cut(tag, '='); len(key) > 0 && len(value) > 0 && string(key) != "name" {
			c.tags = append(c.tags, tag)
		}
	}
	slices.SortStableFunc(c.tags, func(x, y []byte) int { return bytes.Compare(keyOf(x), keyOf(y)) })
	for i, tag := range c.tags {
		if i+1 == len(c.tags) || !bytes.Equal(keyOf(tag), keyOf(c.tags[i+1])) {
			c.name = append(append(c.name, ';'), tag...)
		}
	}
}

func keyOf(tag []byte) []byte {
	key, _ := cut(tag, '=')
	return key
}
