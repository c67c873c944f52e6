package line

import (
	"math"
	"strings"
)

// A Rewriter checks lines of one protocol and rewrites their paths for one
// name. It never changes; any number of goroutines may use it.
type Rewriter struct {
	protocol Protocol

	from  string // with its dot: "host."
	match *edit  // of a path that starts with from
	other *edit  // of a path that starts neither with from nor with a key of names

	names map[string]*edit // of a path that starts with the key, which is `to` rendered
	nodes int              // of every key of names
	lead  string           // of every key of names: what `to` has before {name}
	early bool             // names is asked before from, because a key may start with from

	floor       int64  // Carbon: lines before it are Earlier
	floorDigits uint64 // digitsOfFloor(floor)
}

// An edit is what becomes of a line: head takes the place of its first cut
// bytes. It holds for lines of up to max bytes; longer ones are TooLong.
type edit struct {
	head   string
	cut    int
	max    int
	result Result
}

// Rewriter returns what rewrites lines of p under name, which is of r.Names;
// with name "" none is held now, and lines that need one come out as Held. The
// rules have no Problems.
func (r Rules) Rewriter(p Protocol, name string) *Rewriter {
	lead, _, _ := strings.Cut(r.To, namePlaceholder)
	w := &Rewriter{
		protocol: p,
		from:     r.From + ".",
		names:    make(map[string]*edit, len(r.Names)),
		nodes:    strings.Count(r.To, ".") + 1,
		lead:     lead,
		floor:    math.MinInt64,
	}

	// A line longer than this is TooLong under every name. What does not leave,
	// or not yet, is measured by it, too, so that a line that was held gets no
	// other verdict than one that came when the name was there.
	longest := r.longest()
	pass := func(result Result) *edit { return &edit{max: MaxLen, result: result} }
	stay := func(result Result) *edit { return &edit{max: longest, result: result} }
	replace := func(cut int, head string) *edit {
		if name == "" {
			return stay(Held)
		}
		return &edit{head: head, cut: cut, max: MaxLen + cut - len(head), result: Rewritten}
	}

	own := r.render(name)
	w.match = replace(len(r.From), own)
	switch r.Unmatched {
	case ForwardUnmatched:
		w.other = pass(Free)
	case PrefixUnmatched:
		w.other = replace(0, own+".")
	case DropUnmatched:
		w.other = stay(UnmatchedPath)
	}

	for _, n := range r.Names {
		to := r.render(n)
		w.early = w.early || under(to, r.From)
		switch {
		case name == "":
			w.names[to] = stay(Held)
		case n != name:
			w.names[to] = stay(ForeignName)
		case r.Unmatched == ForwardUnmatched && !under(to, r.From):
			w.names[to] = pass(Named)
		}
	}
	return w
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
// with its tags) this is.
func (w *Rewriter) edit(name []byte) *edit {
	matches := hasPrefix(name, w.from)
	if matches && !w.early {
		return w.match
	}
	if e, ok := w.names[string(w.leading(name))]; ok {
		return e
	}
	if matches {
		return w.match
	}
	return w.other
}

// leading returns what of a name is compared with the keys of names: its first
// nodes, whole; nil if it cannot equal one.
func (w *Rewriter) leading(name []byte) []byte {
	if !hasPrefix(name, w.lead) {
		return nil
	}
	nodes := w.nodes
	for i, c := range name {
		if isTag(c) {
			name = name[:i]
			break
		}
		if c != '.' {
			continue
		}
		if nodes--; nodes == 0 {
			return name[:i]
		}
	}
	if nodes == 1 {
		return name
	}
	return nil
}

// append applies e to a sound line.
func (e *edit) append(dst, line []byte) ([]byte, Result) {
	if r := e.judge(len(line)); !r.Appended() {
		return dst, r
	}
	dst = append(dst, e.head...)
	dst = append(dst, line[e.cut:]...)
	return append(dst, '\n'), e.result
}

// judge returns what becomes of a sound line of n bytes.
func (e *edit) judge(n int) Result {
	if n > e.max {
		return TooLong
	}
	return e.result
}

func hasPrefix(b []byte, prefix string) bool {
	return len(b) >= len(prefix) && string(b[:len(prefix)]) == prefix
}

// isTag says whether tags start at c.
func isTag(c byte) bool { return c == ';' || c == ',' || c == '#' || c == '[' }

// hasPath says whether anything is left of name without its tags.
func hasPath(name []byte) bool { return len(name) > 0 && !isTag(name[0]) }
