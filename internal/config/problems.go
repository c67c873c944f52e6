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

// An Error is what is wrong with a file, in its order: a sentence and a remedy each. It holds
// no value of the file that could not be read as what it is to be: one may be a password in the
// wrong line.
type Error []Mistake

// A Mistake is a sentence, and how to mend it; "": that isn't known.
type Mistake struct {
	error
	Hint string
}

// maxProblems bounds how many are told of a file, which may be no configuration at all.
const maxProblems = 100

// newError makes sentences of problems: file:line:column, the key, and what is wrong with
// it. What the file lacks is said to be at its start.
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
		e = append(e, Mistake{error: fmt.Errorf("%s: and %d problems more", file, more)})
	}
	return e
}

// Error gives one problem a line.
func (e Error) Error() string {
	lines := make([]string, len(e))
	for i, f := range e {
		lines[i] = f.Error()
	}
	return strings.Join(lines, "\n")
}

// maxBrief bounds what is told of something that somebody has written, in characters.
const maxBrief = 400

// brief returns text as it may be told.
func brief(text string) string {
	if all := []rune(text); len(all) > maxBrief {
		text = string(all[:maxBrief]) + "…"
	}
	return conf.Visible(text)
}

// isFree finds the keys whose values are names: what is wrong with one is told with it.
var isFree = regexp.MustCompile(`^(?:membership\.(?:pool|owner|names(?:\[\d+\]|\.prefix)?)$|rewrite\.(?:from|to)$|.*\.name$)`)

// concealed returns what is said of the value at path, without the value or its parts, which
// stand in quotes: but for names, and for single characters of one.
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
