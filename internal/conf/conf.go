// Package conf is what the owners of parts of the configuration share with internal/config, which
// reads the file, and with the commands: the form of a complaint about a value, the notation of
// sizes, the reading of files that the configuration names, and text for people.
//
// A package validates its own part and returns Problems; each gives the path of its key, so that
// internal/config can add file, line and column.
package conf

import (
	"fmt"
	"strconv"
	"strings"
)

// A Problem is one complaint about one configuration value.
type Problem struct {
	Path string // of the key, from the root of the file: "forward.statsd.to[1]"
	Text string // what is wrong, including the value: "ttl 2s is too short"
	Hint string // the remedy, as something that can be typed: "5s or more"
}

// Error returns the problem in one line, without its place in the file.
func (p Problem) Error() string {
	if p.Hint == "" {
		return p.Path + ": " + p.Text
	}
	return p.Path + ": " + p.Text + " (" + p.Hint + ")"
}

// Problems collects complaints. The zero value is ready for use.
type Problems []Problem

// Addf appends a problem; text is formatted by format and args.
func (ps *Problems) Addf(path, hint, format string, args ...any) {
	*ps = append(*ps, Problem{Path: path, Text: fmt.Sprintf(format, args...), Hint: hint})
}

// Err returns ps as an error, or nil if there is no problem.
func (ps Problems) Err() error {
	if len(ps) == 0 {
		return nil
	}
	return ps
}

// Error returns the problems, each on a line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Bytes is a size in bytes, written as "64MiB" in a file.
type Bytes int64

// maxBytes bounds a size, so that adding some of them can't overflow.
const maxBytes Bytes = 1 << 50

// The units of a size, the largest first.
var units = []struct {
	suffix string
	size   Bytes
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

// String returns b in the largest binary unit that loses nothing.
func (b Bytes) String() string {
	for _, u := range units[:4] {
		if b != 0 && b%u.size == 0 {
			return strconv.FormatInt(int64(b/u.size), 10) + u.suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// MarshalText implements encoding.TextMarshaler.
func (b Bytes) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// UnmarshalText parses a whole number with an optional unit: "0", "1432", "64MiB", "1GB".
func (b *Bytes) UnmarshalText(text []byte) error {
	digits, size := string(text), Bytes(1)
	for _, u := range units {
		if s, ok := strings.CutSuffix(digits, u.suffix); ok {
			digits, size = strings.TrimSpace(s), u.size
			break
		}
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	if err != nil || Bytes(n) > maxBytes/size {
		return fmt.Errorf("%q is not a size (write a whole number with a unit, like 64MiB)", text)
	}
	*b = Bytes(n) * size
	return nil
}
