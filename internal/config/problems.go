package config

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// A problem is a complaint with its place in the file.
type problem struct {
	conf.Problem
	at place
}

// An Error is all that is wrong with a file, in the order of the file. It contains no value that was
// not understood: that may be a password on the wrong line.
type Error []Mistake

// A Mistake is an error and how to mend it ("" if that is not known).
type Mistake struct {
	error
	Hint string
}

// maxProblems bounds how many are reported; the file may be no configuration at all.
const maxProblems = 100

// newError turns problems into errors with file:line:column, the key, and what is wrong with it. What
// is missing is reported at the start of the file.
func newError(file string, problems []problem) (e Error) {
	slices.SortStableFunc(problems, func(a, b problem) int {
		return cmp.Or(a.at.line-b.at.line, a.at.column-b.at.column)
	})
	for _, p := range problems[:min(len(problems), maxProblems)] {
		where := fmt.Sprintf("%s:%d:%d: ", file, max(p.at.line, 1), max(p.at.column, 1))
		if p.Path != "" {
			where += brief(p.Path) + ": "
		}
		e = append(e, Mistake{error: errors.New(where + brief(p.Text)), Hint: brief(p.Hint)})
	}
	if more := len(problems) - maxProblems; more > 0 {
		e = append(e, Mistake{error: fmt.Errorf("%s: and %d more problems", file, more)})
	}
	return e
}

// Error returns the mistakes, each on a line.
func (e Error) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// maxBrief bounds how much is quoted of what somebody has written, in characters.
const maxBrief = 400

// brief returns text in a form that is fit for a terminal.
func brief(text string) string {
	if all := []rune(text); len(all) > maxBrief {
		text = string(all[:maxBrief]) + "…"
	}
	return conf.Visible(text)
}

// isFree matches the keys whose values are names, which may be quoted.
var isFree = regexp.MustCompile(`^(?:membership\.(?:pool|owner|names(?:\[\d+\]|\.prefix)?)$|rewrite\.(?:from|to)$|.*\.name$)`)

// concealed returns text, which is about the value at path, without anything quoted from the value,
// unless that is a name or a single character of one.
func concealed(path, text string) string {
	return quoted.ReplaceAllStringFunc(text, func(value string) string {
		if isFree.MatchString(path) && plainName.MatchString(value) {
			return value
		}
		return `"…"`
	})
}

var (
	quoted    = regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	plainName = regexp.MustCompile(`^"(?:[\w.{}-]*|\\?.)"$`)
)
