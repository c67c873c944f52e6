package line

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
)

// A Rewriter checks lines of one protocol and rewrites their paths for one
// name. It never changes; any number of goroutines may use it.
type Rewriter struct {
	protocol Protocol

	from     string // with its dot: "host."
	fromWord uint64 // its first bytes, 8 at most
	fromMask uint64 // with 0xff for each of them

	match *edit // of a path that starts with from
	other *edit // of a path that starts neither with from nor with a key of names
	bad   *edit // of a path that costs others, or of which cannot be told whose it is

	names     map[string]*edit // by `to` rendered, as the server reads it
	nodes     int              // of every key of names
	fromKey   string           // from, as the server reads it
	fromNodes int
	early     bool // names is asked before from, because a key may start with from
	points    bool // what is ours becomes points: no server reads it

	// first tells of most first nodes that they are nothing to look for: by their
	// first byte, a bit for each length (modulo 64) of those that may be.
	first [256]uint64

	floor       int64  // Carbon: lines before it are Earlier
	floorDigits uint64 // digitsOfFloor(floor)
}

// An edit is what becomes of a line: head takes the place of what stands at its start,
// which is as long as plain where that is spelled plainly. It holds for lines of up
// to max bytes with such a spelling; longer ones are TooLong.
type edit struct {
	head   string
	plain  int
	max    int
	result Result
}

// newEdit returns an edit that puts head in the place of plain, for lines that leave
// with no more than max bytes.
func newEdit(plain, head string, max int, result Result) *edit {
	return &edit{head, len(plain), max + len(plain) - len(head), result}
}

// Rewriter returns what rewrites lines of p under name, which is of r.Names;
// with name "" none is held now, and lines that need one come out as Held. The
// rules have no Problems.
func (r Rules) Rewriter(p Protocol, name string) *Rewriter {
	w := &Rewriter{
		protocol: p,
		from:     r.From + ".",
		names:    make(map[string]*edit, len(r.Names)),
		floor:    math.MinInt64,
	}

	var word [8]byte
	n := copy(word[:], w.from)
	w.fromWord = binary.LittleEndian.Uint64(word[:])
	w.fromMask = 1<<(8*n) - 1

	// A line longer than this is TooLong under every name. What does not leave,
	// or not yet, is measured by it, too, so that a line that was held gets no
	// other verdict than one that came when the name was there.
	longest := r.longest()
	stay := func(result Result) *edit { return newEdit("", "", longest, result) }
	w.points = r.Points && p == StatsD
	replace := func(plain, head string) *edit {
		if name == "" && !w.points {
			return newEdit(plain, plain, longest, Held)
		}
		return newEdit(plain, head, MaxLen, Rewritten)
	}

	own := r.render(name)
	if w.points {
		own = Mark
	}
	w.bad = stay(BadPath)
	w.match = replace(w.from, own+".")
	switch r.Unmatched {
	case PrefixUnmatched:
		w.other = replace("", own+".")
	case DropUnmatched:
		w.other = stay(UnmatchedPath)
	default:
		w.other = newEdit("", "", MaxLen, Free)
	}

	w.fromKey, w.fromNodes = p.normal(r.From)
	w.look(w.fromKey)
	for _, n := range r.Names {
		to := r.render(n)
		var key string
		key, w.nodes = p.normal(to)
		w.look(key)
		within := under(key, w.fromKey)
		w.early = w.early || within
		switch {
		case name == "":
			w.names[key] = stay(Held)
		case n != name:
			w.names[key] = stay(ForeignName)
		case w.points && !within:
			w.names[key] = newEdit(key, Mark, MaxLen, Rewritten)
		case w.other.result == Free && !within:
			w.names[key] = newEdit("", "", MaxLen, Named)
		}
	}
	w.look(tagStore)
	if p == StatsD {
		for n := range scriptNames {
			w.look(n)
		}
	}
	return w
}

// look makes edit look closely at paths that start with the first node of path.
func (w *Rewriter) look(path string) {
	node, _, _ := strings.Cut(path, ".")
	w.first[node[0]] |= 1 << (len(node) % 64)
}

// Since returns a Rewriter like w that refuses to name Carbon lines which carry a
// time before floor, in Unix seconds: they come out as Earlier, if they need the
// name or stand under it.
func (w *Rewriter) Since(floor int64) *Rewriter {
	since := *w
	since.floor, since.floorDigits = floor, digitsOfFloor(floor)
	return &since
}

// longest returns the length of the longest line that can leave under any name:
// a short one may make it shorter.
func (r Rules) longest() int {
	longest := MaxLen
	for _, n := range r.Names {
		longest = max(longest, MaxLen+len(r.From)-len(r.render(n)))
	}
	return longest
}

// Append reads line, which has no terminator, checks it, and appends what
// leaves, ended by '\n', to dst. If nothing leaves, dst comes back unchanged.
// now replaces a Carbon timestamp of -1; it is in Unix seconds.
//
// A Held line is checked and normalised, and its path is as it was. Appending
// it again with a name gives what appending the first line with that name would
// have given.
func (w *Rewriter) Append(dst, line []byte, now int64) ([]byte, Result) {
	if len(line) == 0 {
		return dst, Empty
	}
	if w.protocol == Carbon {
		return w.appendCarbon(dst, line, now)
	}
	return w.appendStatsD(dst, line)
}

// edit decides, by the path alone, what becomes of a line whose name (the path
// with its tags) this is, and how many of its bytes are cut.
func (w *Rewriter) edit(name []byte) (e *edit, cut int) {
	if n := len(w.from); w.hasFrom(name) && !w.early && (len(name) == n || !isSeparator(w.protocol, name[n])) {
		return w.match, n
	}
	node := len(name)
	for i, c := range name {
		if k := classes[w.protocol][c]; k == letter {
			continue
		} else if k == odd || i == 0 {
			return w.study(name)
		}
		node = i
		break
	}
	if w.first[name[0]]>>(node%64)&1 != 0 {
		return w.study(name)
	}
	return w.other, 0 // nearly all that from does not match
}

// study is edit for a name that may be another spelling of one that matters.
func (w *Rewriter) study(name []byte) (e *edit, cut int) {
	var buf [maxKey]byte
	x := w.protocol.extent(name)
	e, cut = w.named(buf[:0], name, x)
	if w.protocol == StatsD { // whoever reads it may have tags there
		tagged, at := w.named(buf[:0], name, extent{x.start, indexOr(name, ";,#[", len(name))})
		if e == nil || tagged != nil && tagged.result == ForeignName {
			e, cut = tagged, at
		}
	}
	if e == nil {
		key, at, ok := w.protocol.leading(buf[:0], name, x, w.fromNodes)
		if ok && at.dot && string(key) == w.fromKey {
			return w.match, at.cut
		}
		if e = w.other; e.result != Free {
			cut = w.protocol.blanks(name)
		}
	}
	if (e.result == Free || e.result == Named) && w.isBad(buf[:0], name, x) {
		return w.bad, 0
	}
	return e, cut
}

// named returns the edit of a path that starts with a key of names, and how many of
// its bytes that cuts; nil where it starts with none.
func (w *Rewriter) named(buf, name []byte, x extent) (e *edit, cut int) {
	key, at, ok := w.protocol.leading(buf, name, x, w.nodes)
	if e = w.names[string(key)]; !ok || e == nil {
		return nil, 0
	}
	if e.head == "" {
		return e, 0
	}
	if at.dot { // which stays: it is Mark that comes, in StatsD
		at.cut--
	}
	return e, at.cut
}

// Owns says whether a StatsD line that leaves carries our name, in any spelling: w has one.
func (w *Rewriter) Owns(line []byte) bool {
	e, _ := w.edit(line[:indexOr(line, ":", len(line))])
	return e.result != Free && !isEvent(line)
}

// isBad says whether a path may not leave as it is, whoever it belongs to.
func (w *Rewriter) isBad(buf, name []byte, x extent) bool {
	node, at, _ := w.protocol.leading(buf, name, x, 1)
	if at.dot {
		return string(node) == tagStore
	}
	return w.protocol == StatsD && x.end == len(name) && bytes.IndexByte(name, '.') < 0 && scriptNames[string(node)]
}

// append applies e to a sound line, whose first cut bytes go.
func (e *edit) append(dst, line []byte, cut int) ([]byte, Result) {
	if r := e.judge(len(line), cut); !r.Appended() {
		return dst, r
	}
	dst = append(dst, e.head...)
	dst = append(dst, line[cut:]...)
	return append(dst, '\n'), e.result
}

// judge returns what becomes of a sound line of n bytes, of which cut go.
func (e *edit) judge(n, cut int) Result {
	if n-cut+e.plain > e.max {
		return TooLong
	}
	return e.result
}

// hasFrom says whether name starts with from.
func (w *Rewriter) hasFrom(name []byte) bool {
	if len(name) < 8 {
		return hasPrefix(name, w.from)
	}
	return binary.LittleEndian.Uint64(name)&w.fromMask == w.fromWord && (len(w.from) <= 8 || hasPrefix(name, w.from))
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// hasPath says whether anything is left of name without its tags.
func hasPath(name []byte) bool { return len(name) > 0 && name[0] != ';' }
