package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"syscall"
	"unicode"

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
	fmt.Fprintln(u.err, "prefixproxy: warning:", visible(fmt.Sprintf(format, args...)))
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

// coded is an error with an exit code of its own.
type coded struct {
	error
	code int
}

func (c coded) Unwrap() error { return c.error }

// usageError returns an error of the command line.
func usageError(err error, hint string) error { return coded{hinted{err, hint}, exitUsage} }

// exitCode returns the code that err ends the process with.
func exitCode(err error) int {
	own, isCoded := errors.AsType[coded](err)
	switch {
	case err == nil:
		return exitDone
	case isCoded:
		return own.code
	}
	return exitFailed
}

// report tells a person about err.
func report(w io.Writer, err error) {
	if bad, ok := errors.AsType[*configError](err); ok {
		bad.report(w)
		return
	}
	mask := func(text string) string { return text }
	if code := exitCode(err); code == exitUsage || code == exitConfig { // it tells what was typed
		mask = conf.Mask
	}
	fmt.Fprintln(w, "prefixproxy: error:", mask(err.Error()))
	if errors.Is(err, syscall.EMFILE) {
		fmt.Fprintln(w, "prefixproxy: hint: LimitNOFILE=8192 in the unit, or ulimit -n 8192")
	} else if h, ok := errors.AsType[hinted](err); ok {
		fmt.Fprintln(w, "prefixproxy: hint:", mask(h.hint))
	}
}

// A configError is a file with problems.
type configError struct {
	file     string
	lines    []string // of the file, for excerpts
	hide     *strings.Replacer
	shows    func(word string) bool
	problems []problem
	more     int // problems, that are not told
}

// maxProblems bounds how many are told of a file, which may be no configuration at all.
const maxProblems = 100

// newConfigError returns the problems that d has found, in the order of the file.
func newConfigError(file string, text []byte, d *decoder) *configError {
	wrong := map[string]bool{}
	for _, p := range d.problems {
		wrong[p.Path] = true
	}
	for path, n := range d.texts {
		if !wrong[path] || isFree.MatchString(path) {
			note(d.told, n.Value)
		}
	}
	slices.SortStableFunc(d.problems, func(a, b problem) int {
		return cmp.Or(a.at.line-b.at.line, a.at.column-b.at.column)
	})
	told := min(len(d.problems), maxProblems)
	return &configError{file, splitLines(text), hider(d.hidden), d.shows, d.problems[:told], len(d.problems) - told}
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
	return where + brief(e.mask(p.Text))
}

// mask returns what may be told of text.
func (e *configError) mask(text string) string { return e.hide.Replace(conf.Mask(text)) }

// brief cuts what somebody has written for hundreds of characters.
func brief(text string) string {
	if all := []rune(text); len(all) > 2*maxExcerpt {
		text = string(all[:2*maxExcerpt]) + "…"
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

// report tells a person about all problems, each with the line that it is in.
func (e *configError) report(w io.Writer) {
	shown := map[int][]rune{} // lines
	for _, p := range e.problems {
		fmt.Fprintln(w, "prefixproxy: error:", e.sentence(p))
		if line := p.at.line; 1 <= line && line <= len(e.lines) {
			if shown[line] == nil {
				shown[line] = e.excerptOf(line)
			}
			e.excerpt(w, p.at, shown[line])
		}
		if p.Hint != "" {
			fmt.Fprintln(w, "prefixproxy: hint:", brief(e.mask(p.Hint)))
		}
	}
	if e.more > 0 {
		fmt.Fprintln(w, "prefixproxy: error:", e.andMore())
	}
}

// maxExcerpt bounds what is shown of a line, in characters.
const maxExcerpt = 200

// excerptOf returns what may be shown of a line, without its comment.
func (e *configError) excerptOf(line int) []rune {
	text, _, _ := strings.Cut(e.lines[line-1], " #")
	shown := []rune(visible(e.mask(text)))
	end := ""
	if len(shown) > maxExcerpt {
		shown, end = shown[:maxExcerpt], "…"
	}
	return []rune(wordInLine.ReplaceAllStringFunc(string(shown), func(word string) string {
		if e.shows(word) {
			return word
		}
		return conf.Stars(word)
	}) + end)
}

// excerpt shows a line, as shown, with a caret below the column.
func (e *configError) excerpt(w io.Writer, at place, shown []rune) {
	text := []rune(e.lines[at.line-1])
	before := text[:min(at.column-1, len(text))]
	if len(before) > maxExcerpt {
		return
	}
	blank := strings.Map(func(r rune) rune {
		if r == '\t' {
			return r
		}
		return ' '
	}, string(before))
	fmt.Fprintf(w, "%5d | %s\n", at.line, string(shown))
	fmt.Fprintf(w, "      | %s^\n", blank)
}
