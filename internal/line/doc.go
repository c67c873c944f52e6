// Package line knows what a metric line is, for StatsD and for Carbon's
// plaintext protocol: where it ends, whether its server would take it, and how
// it reads under the name that this host holds.
//
//	for {
//		ln, rest, ok := line.Cut(data)
//		if !ok {
//			break // rest has no '\n' yet
//		}
//		batch, result = rewriter.Append(batch, ln, now)
//		data = rest
//	}
//
// It is bytes in, bytes out: no I/O, no clock, no state between lines. A
// Rewriter is built when a name is claimed or lost, never changes, and may be
// used by any number of goroutines. Append allocates nothing but what dst lacks
// (a Carbon timestamp of more than 32 bytes that is no plain number of seconds
// excepted).
//
// In reading order: cut.go, result.go, rules.go (what a person configures),
// path.go (what a server makes of a path), rewrite.go (what becomes of it), statsd.go and carbon.go (what
// each server would refuse), scan.go (bytes and numbers). docs/LINES.md tells
// the same to people, with the sources of every rule.
//
// Not promised: that the server takes what passes. Only what its parser is
// known to refuse, or to die of, is refused here; an unknown StatsD type, a
// value that is no number in StatsD, an odd path (a..b, a/b) pass as they are, as long
// as they are nobody else's to the server. That servers other than carbon-cache 1.1
// and statsd 0.9 read a path as those do.
package line
