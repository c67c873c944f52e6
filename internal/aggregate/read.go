package aggregate

import (
	"bytes"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// A Reading is lines that were read, and are not counted yet: Aggregator.Add does that. It
// keeps what it is given until then. Each reader has its own, and needs no lock for it.
type Reading struct {
	lines [512]pending // more would not fit into the processor's cache
	n     int
}

// A pending line is one that is not counted yet.
type pending struct {
	path, metrics []byte // path: behind the mark and its dot
	plain                // that metrics begin with, and which is all but for tags; else of noKind
	tags          int32  // how long those behind it are, with "|#"
	hash          uint64 // of path
	s             *series
}

// dog returns the tags behind a plain metric, with "|#".
func (p *pending) dog() []byte { return p.metrics[p.length:][:p.tags] }

// IsFull says whether Add is to be called before the next line.
func (r *Reading) IsFull() bool { return r.n == len(r.lines) }

// Len returns how many lines there are.
func (r *Reading) Len() int { return r.n }

// Plain takes a line as most are, if it is one: the path behind the mark and its dot, and a
// metric like "12|c" or "0.5|ms|@0.1|#a:b".
func (r *Reading) Plain(path, metrics []byte) bool {
	p := &r.lines[r.n]
	if !p.plain.read(metrics) {
		return false
	}
	tags, ok := plainTags(metrics[p.length:])
	if !ok || len(path)+len(tags) > maxNode {
		return false
	}
	p.path, p.metrics, p.tags, p.hash = path, metrics, int32(len(tags)), hashOf(path)
	r.n++
	return true
}

// put takes a line that is not plain.
func (r *Reading) put(path, metrics []byte) {
	p := &r.lines[r.n]
	p.path, p.metrics, p.kind = path, metrics, noKind
	r.n++
}

// again takes a line, and no other, that has been taken before.
func (r *Reading) again(path, metrics []byte) {
	if r.n = 0; !r.Plain(path, metrics) {
		r.put(path, metrics)
	}
}

// Line takes a line, with or without its newline, and returns line.Rewritten, or the reason to refuse it.
func (r *Reading) Line(ln []byte, tags Tags) line.Result {
	path, metrics := cut(bytes.TrimSuffix(ln, newline), ':')
	if len(path) == 0 || path[0] != mark {
		return line.NoPoint
	}
	path = bytes.TrimPrefix(path[1:], dot)
	if r.Plain(path, metrics) {
		return line.Rewritten
	}
	why := check(path, metrics, tags)
	if why.Appended() {
		r.put(path, metrics)
	}
	return why
}

// check returns what becomes of a line of several metrics: it counts if one of them does.
func check(path, metrics []byte, tags Tags) line.Result {
	if len(path)+len(metrics) > maxNode {
		c := canonicalizer{dropTags: tags == DropTags}
		if !isStorable(c.of(path, tagsOf(metrics))) {
			return line.BadPath
		}
	}
	result := line.NoPoint
	eachValue(metrics, func(_ kind, _ []byte, _, _ float64, why line.Result) {
		if why.Appended() || result == line.NoPoint {
			result = why
		}
	})
	return result
}
