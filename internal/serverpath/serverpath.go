// Package serverpath is a slow, obvious model of what carbon-cache 1.1 and statsd 0.9 make of a
// metric's path, translated from their sources, expression by expression. Tests compare package line
// with it, and it with the real servers (internal/testbed).
//
//	carbon.go  protocols.py, util.py (TaggedSeries), database.py
//	statsd.go  stats.js, servers/tcp.js, backends/graphite.js
//
// # Not promised
//
// Speed. And it covers only what both do by default: no rewrite rules, blacklists, prefixes, or
// keyNameSanitize: false.
package serverpath

import "strings"

// Nodes returns the path of a series with its nodes as in the file system: a dot between them, none in
// front, and one at the end if there are separators.
func Nodes(path string) string {
	path = strings.ReplaceAll(path, "/", ".")
	for strings.Contains(path, "..") {
		path = strings.ReplaceAll(path, "..", ".")
	}
	return strings.TrimPrefix(path, ".")
}
