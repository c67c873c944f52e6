package main

import (
	"cmp"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// A problem is a complaint with its place in the file.
type problem struct {
	conf.Problem
	at place
}

// A configError is a file with problems. What it says holds no value of the file that could
// not be read as what it is to be: one may be a password in the wrong line.
type configError struct {
	file     string
	problems []problem // in the order of the file
	more     int       // problems, that are not told
}

// maxProblems bounds how many are told of a file, which may be no configuration at all.
const maxProblems = 100

func newConfigError(file string, problems []problem) *configError {
	slices.SortStableFunc(problems, func(a, b problem) int {
		return cmp.Or(a.at.line-b.at.line, a.at.column-b.at.column)
	})
	told := min(len(problems), maxProblems)
	return &configError{file, problems[:told], len(problems) - told}
}

// Error gives one problem a line.
func (e *configError) Error() string {
	var lines []string
	for _, p := range e.problems {
		lines = append(lines, e.sentence(p))
	}
	if e.more > 0 {
		lines = append(lines, e.andMore())
	}
	return strings.Join(lines, "\n")
}

func (e *configError) andMore() string {
	return fmt.Sprintf("%s: and %d problems more", e.file, e.more)
}

// sentence is file:line:column, the key and what is wrong with it. What the
// file lacks is said to be at its start.
func (e *configError) sentence(p problem) string {
	where := fmt.Sprintf("%s:%d:%d: ", e.file, max(p.at.line, 1), max(p.at.column, 1))
	if p.Path != "" {
		where += brief(p.Path) + ": "
	}
	return where + brief(p.Text)
}

// report tells a person about all problems.
func (e *configError) report(w io.Writer) {
	for _, p := range e.problems {
		fmt.Fprintln(w, "prefixproxy: error:", e.sentence(p))
		if p.Hint != "" {
			fmt.Fprintln(w, "prefixproxy: hint:", brief(p.Hint))
		}
	}
	if e.more > 0 {
		fmt.Fprintln(w, "prefixproxy: error:", e.andMore())
	}
}

// maxBrief bounds what is told of something that somebody has written, in characters.
const maxBrief = 400

// brief returns text as it may be told.
func brief(text string) string {
	if all := []rune(text); len(all) > maxBrief {
		text = string(all[:maxBrief]) + "…"
	}
	return visible(text)
}

// visible returns text with a mark in the place of each character that a terminal would obey,
// or not show.
func visible(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '\ufffd'
	}, text)
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
