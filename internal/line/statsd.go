package line

import (
	"bytes"
	"unicode"
)

// The measure for StatsD is statsd 0.9:
//
//	https://github.com/statsd/statsd/blob/v0.9.0/stats.js        handlePacket
//	https://github.com/statsd/statsd/blob/v0.9.0/lib/helpers.js  is_valid_packet
//
// Of a line it cuts what follows "|#" (tags), splits the rest at every ':' into
// a name and metrics, and each metric at every '|' into value, type and rate.

// event is the edit of DogStatsD's events and service checks: none.
var event = &edit{max: MaxLen, result: Free}

// appendStatsD is Append for StatsD.
func (w *Rewriter) appendStatsD(dst, line []byte) ([]byte, Result) {
	found := scan(line)
	if found&control != 0 {
		return dst, Control
	}
	if isEvent(line) {
		return w.appendEvent(dst, line, found)
	}
	colon, bar := bytes.IndexByte(line, ':'), bytes.IndexByte(line, '|')
	if colon < 0 {
		if isBlankLine(line) {
			return dst, Empty
		}
		return dst, NoValue
	}
	name := line[:colon]
	if !hasPath(name) {
		return dst, EmptyPath
	}
	if !hasMetric(line, colon, bar) {
		return dst, NoValue
	}
	if rest := line[max(colon, bar):]; !isType(rest[1:]) && anyRate(rest, isBadRate) {
		return dst, BadRate
	}
	e, cut := w.edit(name)
	out, result := e.append(dst, line, cut)
	if found&high != 0 && w.isMisread(out, len(dst), result) || len(line) > maxNode && result < Held && !w.isKept(out[len(dst):len(out)-1]) {
		return dst, BadPath
	}
	if bytes.IndexByte(name, ';') >= 0 && result < Held && !w.points && !isTaggable(name) {
		return dst, BadPath
	}
	return out, result
}

// isTaggable says whether graphite-web can read the tags in a name that statsd has read: if not,
// those of others are not indexed either (series). DogStatsD's are for servers that can do without
// values.
func isTaggable(name []byte) bool {
	_, ok := readTags(appendClean(nil, name[indexOr(name, ";", len(name)):]))
	return ok
}

// maxName is how long the name and the tags of a series may be in a line that statsd sends to
// carbon, in bytes: the rest is what it adds.
const maxName = MaxLen - 300

// isKept says whether a carbon behind statsd can keep the series of a long line that leaves: if
// not, each flush costs others theirs, or what stands behind it. What becomes points is looked
// at as such.
func (w *Rewriter) isKept(line []byte) bool {
	metrics, tags, _ := bytes.Cut(line, []byte("|#"))
	name, _, _ := bytes.Cut(metrics, []byte(":"))
	if w.points || len(name)+len(tags) > maxName {
		return w.points
	}
	tags, _, _ = bytes.Cut(tags, []byte("|#"))
	key := AppendKey(nil, name, tags)
	path := key[:indexOr(key, ";", len(key))]
	tagged, ok := readTags(key[len(path):])
	return tagged || !ok || StatsD.isStorable(path) // a file is named by a hash of tags, and of what cannot be read
}

// AppendKey appends what statsd makes of a name, with its tags, and of DogStatsD's, without "#".
func AppendKey(dst, name, tags []byte) []byte {
	dst = appendClean(dst, name)
	for len(tags) > 0 {
		tag, rest, _ := bytes.Cut(tags, []byte(","))
		begin := len(dst) + 1
		dst = append(append(dst, ';'), tag...)
		for i, old := range []byte(";:") { // the first of each
			if at := bytes.IndexByte(dst[begin:], old); at >= 0 {
				dst[begin+at] = "_="[i]
			}
		}
		dst, tags = appendClean(dst[:begin], dst[begin:]), rest
	}
	return dst
}

// appendClean appends what statsd makes of a part of a name, with its tags.
func appendClean(dst, part []byte) []byte {
	for len(part) > 0 {
		c, size := part[0], 1
		if classes[StatsD][c] == odd {
			c, size = StatsD.next(part)
		}
		if c != 0 {
			dst = append(dst, c)
		}
		part = part[size:]
	}
	return dst
}

// CutOwn cuts a line that is to become points (Rules.Points) into what stands between from and
// the first colon, and what follows that. ok is false unless Append would do no more than put
// Mark in the place of from, if there is a value and a type, and no rate that is bad.
func (w *Rewriter) CutOwn(line []byte) (path, metrics []byte, ok bool) {
	if !w.points || w.early || !hasPrefix(line, w.from) || len(line) > MaxLen/2 || scan(line)&control != 0 {
		return nil, nil, false
	}
	path, metrics, ok = bytes.Cut(line[len(w.from):], []byte(":"))
	return path, metrics, ok && bytes.IndexByte(path, '|') < 0
}

// appendEvent is appendStatsD for an event or a service check. It has no path, but
// may have one for statsd, which takes it for a metric.
func (w *Rewriter) appendEvent(dst, line []byte, found content) ([]byte, Result) {
	if anyRate(line, isDeadly) {
		return dst, BadRate
	}
	if e := w.reads(line); e != nil && (e != w.other || len(line) > maxNode && !w.isKept(line) || !w.points && !isTaggable(line[:bytes.IndexByte(line, ':')])) {
		return dst, BadPath
	}
	out, result := event.append(dst, line, 0)
	if found&high != 0 && w.isMisread(out, len(dst), result) {
		return dst, BadPath
	}
	return out, result
}

// reads returns what would become of line as a metric, if statsd takes it for one;
// nil if not.
func (w *Rewriter) reads(line []byte) *edit {
	colon := bytes.IndexByte(line, ':')
	if colon < 0 || !hasMetric(line, colon, bytes.IndexByte(line, '|')) {
		return nil
	}
	if colon == 0 {
		return w.other
	}
	e, _ := w.edit(line[:colon])
	return e
}

// isMisread says whether the line that was appended to out, from byte begin on, is
// another one to statsd's TCP server, in a way that matters. That server reads ASCII,
// by cutting the highest bit of every byte: what is UTF-8 by UDP may be two lines, a
// rate that ends it, or another host's name.
//
// https://github.com/statsd/statsd/blob/v0.9.0/servers/tcp.js  setEncoding('ascii')
func (w *Rewriter) isMisread(out []byte, begin int, result Result) bool {
	if !result.Appended() || result == Held || w.points {
		return false
	}
	end := len(out)
	read := append(out, out[begin:]...)[end:] // there is room, or it is made
	for i := range read {
		read[i] &= 0x7f
	}
	first := true
	for len(read) > 0 {
		line, rest, _ := bytes.Cut(read, []byte("\n"))
		e := w.reads(line)
		switch {
		case anyRate(line, isDeadly), e != nil && len(line) > maxNode && !w.isKept(line):
			return true
		case !first && e != nil && e.result != Free:
			return true
		case first && e != nil && (e.result == ForeignName || result == Free && e != w.other):
			return true
		}
		read, first = rest, false
	}
	return false
}

// isEvent says whether the line is an event or a service check.
func isEvent(line []byte) bool {
	return line[0] == '_' && (hasPrefix(line, "_e{") || hasPrefix(line, "_sc|"))
}

// hasMetric says whether a value and a type stand behind the name of line; colon
// and bar are its first ':' and '|', -1 where there is none. statsd takes an
// empty type for a counter's, and an empty value in a set; one sound metric
// saves the line.
func hasMetric(line []byte, colon, bar int) bool {
	if colon+1 < bar && line[bar-1] != ':' && bar+1 < len(line) && line[bar+1] != '#' {
		return true // the first metric has both: nearly every line
	}
	line, _, _ = bytes.Cut(line, []byte("|#"))
	_, metrics, more := bytes.Cut(line, []byte(":"))
	for more {
		var metric []byte
		metric, metrics, more = bytes.Cut(metrics, []byte(":"))
		value, rest, typed := bytes.Cut(metric, []byte("|"))
		if typed && (len(value) > 0 || string(rest) == "s" || hasPrefix(rest, "s|")) {
			return true
		}
	}
	return false
}

// isType says whether rest, what stands behind a '|', is a type of one or two
// letters and no more: no rate, then. Most lines end so, and to look at the
// letters takes less time than to call IndexByte.
func isType(rest []byte) bool {
	return len(rest) == 1 && isLetter(rest[0]) ||
		len(rest) == 2 && isLetter(rest[0]) && isLetter(rest[1])
}

// anyRate says whether any rate (a field that starts with '@', without it) of
// metrics is as told.
func anyRate(metrics []byte, is func(rate []byte) bool) bool {
	for {
		at := bytes.IndexByte(metrics, '@')
		if at < 0 {
			return false
		}
		rest := metrics[at+1:]
		if at > 0 && metrics[at-1] == '|' && is(firstField(rest)) {
			return true
		}
		metrics = rest
	}
}

// firstField returns what of metrics stands before a '|' or a ':'.
func firstField(metrics []byte) []byte {
	for i, c := range metrics {
		if c == '|' || c == ':' {
			return metrics[:i]
		}
	}
	return metrics
}

// isBadRate says whether rate is no plain positive decimal.
func isBadRate(rate []byte) bool { return !isDecimal(rate) || isZero(rate) }

// isDeadly says whether statsd dies of rate, wherever it stands: if JavaScript
// takes it for a number, and it does not start with the digit that statsd then
// looks for.
func isDeadly(rate []byte) bool {
	if len(rate) == 0 || isDigit(rate[0]) || rate[0] == '.' || rate[0] == '-' {
		return false
	}
	number := unsigned(bytes.TrimLeftFunc(rate, IsScriptSpace))
	return len(number) == 0 || isDigit(number[0]) || number[0] == '.' || hasPrefix(number, "Infinity")
}

// IsScriptSpace says whether c is white space to JavaScript.
func IsScriptSpace(c rune) bool { return unicode.IsSpace(c) && c != '\u0085' || c == '\ufeff' }
