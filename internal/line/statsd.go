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
	if scan(line)&control != 0 {
		return dst, Control
	}
	if isEvent(line) {
		if anyRate(line, isDeadly) {
			return dst, BadRate
		}
		return event.append(dst, line)
	}
	colon, bar := bytes.IndexByte(line, ':'), bytes.IndexByte(line, '|')
	if colon < 0 {
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
	return w.edit(name).append(dst, line)
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
	number := unsigned(bytes.TrimLeftFunc(rate, isScriptSpace))
	return len(number) == 0 || isDigit(number[0]) || number[0] == '.' || hasPrefix(number, "Infinity")
}

// isScriptSpace says whether JavaScript skips c before a number.
func isScriptSpace(c rune) bool { return unicode.IsSpace(c) || c == '\ufeff' }
