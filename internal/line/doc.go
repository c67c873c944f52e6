// Package line knows the metric lines of StatsD and of Carbon's plaintext protocol: where
// a line ends, whether its server would accept it, and what it becomes under the name
// that this host holds.
//
//	for {
//		batch, data, _, _ = rewriter.AppendPlain(batch, data, limit)
//		ln, rest, ok := line.Cut(data)
//		if !ok {
//			break // rest has no '\n' yet
//		}
//		batch, result = rewriter.Append(batch, ln, now)
//		data = rest
//	}
//
// Bytes in, bytes out: no I/O, no clock, no state between lines. A Rewriter is built when
// a name is claimed or lost, never changes, and may be used by any number of goroutines.
// Append allocates nothing but what dst lacks (a Carbon timestamp of more than 32 bytes
// that is no plain number of seconds excepted).
//
// In reading order: cut.go, result.go, rules.go (what a person configures), path.go (how
// a server reads a path), rewrite.go (how it is rewritten), statsd.go and carbon.go (what
// each server would refuse), plain.go (nearly all of Carbon's lines, at once), scan.go
// (bytes and numbers). docs/LINES.md says the same for users, with the source of every
// rule.
//
// Not promised: that the server accepts what passes. Only what is known to be refused by
// its parser, or to crash it, is refused here; unknown StatsD types, StatsD values that
// are not numbers, and odd paths (a..b, a/b) pass unchanged, unless the server would take
// them for another host's. Nor that servers other than carbon-cache 1.1 and statsd 0.9
// read a path as those do.
package line
