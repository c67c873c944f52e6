package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// How we talk to people:
//
//   - stdout is for what was asked for, and nothing else, so that it can be
//     piped. All the rest goes to stderr.
//   - An error is "prefixproxy: error: " and a sentence with the object in it;
//     where it helps, "prefixproxy: hint: " follows, with something to type.
//   - Whoever has several mistakes in a file hears of all of them at once.
//   - Only main exits: with 0 when the work is done, 1 when it failed, 2 when the
//     command line is wrong, 78 when the configuration is, and nothing was started.
//     Go's runtime ends a crash with 2, which a unit must not take for our word.

// A ui is where a command reads and writes.
type ui struct {
	in  io.Reader
	out io.Writer
	err io.Writer
	log *slog.Logger // to err
}

// warnf tells about something dangerous.
func (u *ui) warnf(format string, args ...any) {
	fmt.Fprintf(u.err, "prefixproxy: warning: "+format+"\n", args...)
}

// notef tells about something that may surprise.
func (u *ui) notef(format string, args ...any) {
	fmt.Fprintf(u.err, "prefixproxy: note: "+format+"\n", args...)
}

// The exit codes.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
	exitConfig = 78 // EX_CONFIG of sysexits.h
)

// hinted is an error with a remedy.
type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }

// usageError is an error of the command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

// unreadable is the error of a configuration that cannot be read.
type unreadable struct{ error }

func (u unreadable) Unwrap() error { return u.error }

// exitCode returns the code that err ends the process with.
func exitCode(err error) int {
	_, isParse := errors.AsType[*kong.ParseError](err)
	_, isConfig := errors.AsType[*configError](err)
	_, isUnreadable := errors.AsType[unreadable](err)
	_, isUsage := errors.AsType[usageError](err)
	switch {
	case err == nil:
		return exitDone
	case isConfig || isUnreadable:
		return exitConfig
	case isParse || isUsage:
		return exitUsage
	}
	return exitFailed
}

// report tells a person about err.
func report(w io.Writer, err error) {
	if bad, ok := errors.AsType[*configError](err); ok {
		bad.report(w)
		return
	}
	fmt.Fprintln(w, "prefixproxy: error:", err)
	if h, ok := errors.AsType[hinted](err); ok {
		fmt.Fprintln(w, "prefixproxy: hint:", h.hint)
	}
}

// A configError is a file with problems.
type configError struct {
	file     string
	lines    []string // of the file, for excerpts
	problems []problem
}

// newConfigError returns problems in the order of the file.
func newConfigError(file string, text []byte, problems []problem) *configError {
	slices.SortStableFunc(problems, func(a, b problem) int {
		if a.at.line != b.at.line {
			return a.at.line - b.at.line
		}
		return a.at.column - b.at.column
	})
	return &configError{file, splitLines(text), problems}
}

// Error gives one problem a line.
func (e *configError) Error() string {
	lines := make([]string, len(e.problems))
	for i, p := range e.problems {
		lines[i] = e.sentence(p)
	}
	return strings.Join(lines, "\n")
}

// sentence is file:line:column, the key and what is wrong with it. What the
// file lacks is said to be at its start.
func (e *configError) sentence(p problem) string {
	where := fmt.Sprintf("%s:%d:%d: ", e.file, max(p.at.line, 1), max(p.at.column, 1))
	if p.Path != "" {
		where += p.Path + ": "
	}
	return where + conf.Mask(p.Text)
}

// report tells a person about all problems, each with the line that it is in.
func (e *configError) report(w io.Writer) {
	for _, p := range e.problems {
		fmt.Fprintln(w, "prefixproxy: error:", e.sentence(p))
		if 1 <= p.at.line && p.at.line <= len(e.lines) {
			e.excerpt(w, p.at, p.secret)
		}
		if p.Hint != "" {
			fmt.Fprintln(w, "prefixproxy: hint:", conf.Mask(p.Hint))
		}
	}
}

// hidden is what is not shown of a secret.
var hidden = regexp.MustCompile(`\S`)

// maxExcerpt bounds what is shown of a line, in characters.
const maxExcerpt = 200

// excerpt shows a line with a caret below the column. Of a secret one it shows what
// stands before the value that is there.
func (e *configError) excerpt(w io.Writer, at place, secret bool) {
	text := e.lines[at.line-1]
	before := []rune(text)
	if len(before) > maxExcerpt {
		text = string(before[:maxExcerpt]) + "…"
	}
	before = before[:min(at.column-1, len(before))]
	if len(before) > maxExcerpt {
		return
	}
	if rest, ok := strings.CutPrefix(text, string(before)); secret && ok {
		if i := strings.IndexByte(rest, ':'); i >= 0 || !strings.HasPrefix(rest, " ") {
			text = string(before) + rest[:i+1] + hidden.ReplaceAllString(rest[i+1:], "*")
		}
	}
	blank := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string(before))
	fmt.Fprintf(w, "%5d | %s\n", at.line, conf.Mask(text))
	fmt.Fprintf(w, "      | %s^\n", blank)
}
