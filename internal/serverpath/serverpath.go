// Package serverpath is a slow, obvious model of what carbon-cache 1.1 and statsd
// 0.9 make of a metric's path, written from their sources, expression by
// expression. Tests hold package line against it, and it against the real servers
// (internal/testbed).
//
//	carbon.go  protocols.py, util.py (TaggedSeries), database.py
//	statsd.go  stats.js, servers/tcp.js, backends/graphite.js
//
// # Not promised
//
// Speed. And only what both do without configuration: no rewrite rules,
// blacklists, keyNameSanitize: false, or prefixes.
package serverpath

import "strings"

// Nodes returns the path of a series as the file system counts its nodes: a dot
// between, none in front; one at the end where separators stand there.
func Nodes(path string) string {
	path = strings.ReplaceAll(path, "/", ".")
	for strings.Contains(path, "..") {
		path = strings.ReplaceAll(path, "..", ".")
	}
	return strings.TrimPrefix(path, ".")
}
