package line

import (
	"bytes"
	"unicode"
	"unicode/utf8"
)

// A path is what the server makes of it: other spellings than the plain one end
// in the same series.
//
// carbon-cache 1.1 (protocols.py, TaggedSeries in util.py, database.py) cuts
// blanks of every kind at both ends, then '~' in front; what stands before ';', or
// before '{' where the whole ends in '"}', is the name. Every '.' becomes a '/',
// and with them the file system counts any number of '/' as one and none in front.
//
//	https://github.com/graphite-project/carbon/blob/1.1.7/lib/carbon/util.py  TaggedSeries
//
// statsd 0.9 (sanitizeKeyName) makes a '_' of each run of JavaScript's blanks, a
// '-' of '/', and cuts every byte but letters, digits and "_-.;=". A carbon behind
// it then does as above.
//
//	https://github.com/statsd/statsd/blob/v0.9.0/stats.js  sanitizeKeyName
//
// Both are read so, and the part before '#', ',' and '[', where other servers have
// their tags, as well.

// maxKey bounds what a path is compared with: `to`, with a name in it.
const maxKey = maxPrefix + 64

// A spot is where in a name the nodes end that were looked for.
type spot struct {
	cut int  // bytes of the name that they, and the separators behind, take
	dot bool // separators follow
}

// A class says what a byte is in the first node of a path, to whoever looks only
// for what is plain.
type class uint8

const (
	letter class = iota
	dot
	semicolon
	odd // everything that a server may take for something else
)

var classes = [...][256]class{StatsD: classesOf(isStatsDLetter), Carbon: classesOf(isCarbonLetter)}

func classesOf(isLetter func(byte) bool) (t [256]class) {
	for i := range t {
		switch c := byte(i); {
		case c == '.':
			t[i] = dot
		case c == ';':
			t[i] = semicolon
		case !isLetter(c):
			t[i] = odd
		}
	}
	return t
}

func isStatsDLetter(c byte) bool {
	return isLetter(c) || isDigit(c) || c == '_' || c == '-' || c == '='
}

func isCarbonLetter(c byte) bool {
	return c > ' ' && c < 0x7f && bytes.IndexByte([]byte("./~{;,#["), c) < 0
}

// An extent is the part of a name that is its path.
type extent struct{ start, end int }

// extent returns where the path of name is, by p's server.
func (p Protocol) extent(name []byte) extent {
	if p == StatsD {
		return extent{0, indexOr(name, ";", len(name))}
	}
	x := extent{start: p.blanks(name)}
	x.end = max(x.start, len(bytes.TrimRightFunc(name, unicode.IsSpace)))
	if bytes.HasSuffix(name[:x.end], []byte(`"}`)) {
		x.end = x.start + indexOr(name[x.start:x.end], "{", x.end-x.start)
	}
	x.end = x.start + indexOr(name[x.start:x.end], ";,#[", x.end-x.start)
	for x.start < x.end && name[x.start] == '~' {
		x.start++
	}
	return x
}

// indexOr returns where the first of chars is in b, or else none.
func indexOr(b []byte, chars string, none int) int {
	if i := bytes.IndexAny(b, chars); i >= 0 {
		return i
	}
	return none
}

// blanks returns how many bytes of name p's server skips before its path.
func (p Protocol) blanks(name []byte) int {
	if p == StatsD {
		return 0
	}
	return len(name) - len(bytes.TrimLeftFunc(name, isBlankRune))
}

// isBlankRune says whether Carbon skips r in front of a path. A byte order mark,
// which it doesn't, is an accident of some editor: one name for all hosts.
func isBlankRune(r rune) bool { return unicode.IsSpace(r) || r == '\ufeff' }

// leading appends the first n nodes of a path to dst, as far as its capacity goes,
// as p's server would write them, with a dot between. ok is false where there are
// fewer, or no room.
func (p Protocol) leading(dst, name []byte, x extent, n int) (nodes []byte, at spot, ok bool) {
	begin := len(dst)
	for i := x.start; i < x.end; {
		c, size := p.next(name[i:x.end])
		i += size
		switch {
		case c == 0:
		case c != '.':
			if len(dst) == cap(dst) {
				return dst, spot{}, false
			}
			dst = append(dst, c)
		case len(dst) == begin: // an empty node is none
		case n == 1:
			for i < x.end && isSeparator(p, name[i]) {
				i++
			}
			return dst, spot{i, true}, true
		case len(dst) == cap(dst):
			return dst, spot{}, false
		default:
			n--
			dst = append(dst, '.')
			begin = len(dst)
		}
	}
	return dst, spot{cut: x.end}, n == 1 && len(dst) > begin
}

// next returns what p's server makes of the first bytes of a path, and how many
// those are: a byte of a node, '.' for a separator, 0 for nothing.
func (p Protocol) next(path []byte) (c byte, size int) {
	c = path[0]
	switch {
	case isSeparator(p, c):
		return '.', 1
	case p == Carbon, isStatsDLetter(c):
		return c, 1
	case c == '/':
		return '-', 1
	}
	rest := bytes.TrimLeftFunc(path, IsScriptSpace)
	if blanks := len(path) - len(rest); blanks > 0 {
		return '_', blanks
	}
	_, size = utf8.DecodeRune(path)
	return 0, size
}

func isSeparator(p Protocol, c byte) bool { return c == '.' || c == '/' && p == Carbon }

// normal returns path, nodes of the configuration, as p's server would write it.
func (p Protocol) normal(path string) (nodes string, n int) {
	x := p.extent([]byte(path))
	for i := 1; ; i++ {
		first, _, ok := p.leading(make([]byte, 0, maxKey), []byte(path), x, i)
		if !ok {
			return nodes, n
		}
		nodes, n = string(first), i
	}
}

// tagStore is the directory in which carbon keeps the series with tags, each under
// the hash of its name: whose series a path below it is cannot be told.
const tagStore = "_tagged"

// scriptNames are the properties of every JavaScript object. statsd looks its
// metrics up in plain objects, and dies where it takes one of these for a metric's
// data.
var scriptNames = map[string]bool{
	"__defineGetter__": true, "__defineSetter__": true, "__lookupGetter__": true, "__lookupSetter__": true, "__proto__": true,
	"constructor": true, "hasOwnProperty": true, "isPrototypeOf": true, "propertyIsEnumerable": true,
	"toLocaleString": true, "toString": true, "valueOf": true,
}

// The longest names that a file can have: of a node (a file's name has 255 bytes,
// and carbon adds ".wsp"), of a whole path (4,095 with carbon's directory), and how
// many nodes (Python makes directories by recursion, a thousand calls deep). For
// each try at another name carbon drops the creation of another series.
const (
	maxNode  = 250
	maxPath  = 4000
	maxNodes = 950
)

// IsStorable says whether carbon can have a file for path, as statsd writes it.
func IsStorable(path []byte) bool { return StatsD.isStorable(path) }

// isStorable says whether carbon can have a file for path, which is long, as p's server writes
// it.
func (p Protocol) isStorable(path []byte) bool {
	length, nodes, node := 0, 0, 0
	for len(path) > 0 {
		c, size := p.next(path)
		path = path[size:]
		switch {
		case c == 0:
			continue
		case c == '.':
			node = 0
		default:
			if node++; node == 1 {
				nodes++
			}
		}
		if length++; node > maxNode {
			return false
		}
	}
	return length <= maxPath && nodes <= maxNodes
}

// series reads name as carbon's and graphite-web's TaggedSeries.parse do. path is what its
// file is named by, unless it is tagged: then that is a hash. What they throw at (ok is false)
// is not in the index of tags, and with it is not what carbon wanted to have indexed in the
// same request: up to a hundred series, until a hundred points later.
func series(name []byte) (path []byte, tagged, ok bool) {
	name = bytes.TrimFunc(name, unicode.IsSpace)
	end := bytes.IndexByte(name, '{')
	if end >= 0 && bytes.HasSuffix(name, []byte(`"}`)) {
		tagged, ok = readOpenMetrics(name[end+1 : len(name)-1])
	} else {
		end = indexOr(name, ";", len(name))
		tagged, ok = readTags(name[end:])
	}
	path = bytes.TrimLeft(name[:end], "~")
	return path, tagged || bytes.IndexByte(path, ';') >= 0, ok && len(path) > 0
}

// readTags says whether each of tags is ";key=value" (ok), and whether some count: one that
// is called "name" does not.
func readTags(tags []byte) (some, ok bool) {
	for i := 0; i < len(tags); {
		key := i + 1
		for i = key; i < len(tags) && tags[i] != '='; i++ {
			if c := tags[i]; c == ';' || c == '!' || c == '^' {
				return false, false
			}
		}
		value := i + 1
		if i == key || value >= len(tags) || tags[value] == ';' || tags[value] == '~' {
			return false, false
		}
		some = some || string(tags[key:i]) != "name"
		for i = value; i < len(tags) && tags[i] != ';'; i++ {
		}
	}
	return some, true
}

// readOpenMetrics is readTags for a list like a="b",c="d".
func readOpenMetrics(list []byte) (some, ok bool) {
	for len(list) > 0 {
		key, rest, found := bytes.Cut(list, []byte(`="`))
		if !found || len(key) == 0 || bytes.ContainsAny(key, "=;!^{") || len(rest) == 0 || rest[0] == '~' {
			return false, false
		}
		end := 0
		for end < len(rest) && rest[end] != '"' {
			if rest[end] == '\\' {
				end++
				if end == len(rest) || rest[end] != '"' && rest[end] != '\\' {
					return false, false
				}
			} else if rest[end] == ';' || rest[end] == '{' {
				return false, false
			}
			end++
		}
		if end == 0 || end >= len(rest) {
			return false, false
		}
		some = some || string(key) != "name"
		list = bytes.TrimPrefix(rest[end+1:], []byte(":"))
		if len(list) > 0 {
			if list[0] != ',' {
				return false, false
			}
			list = list[1:]
		}
	}
	return some, true
}
