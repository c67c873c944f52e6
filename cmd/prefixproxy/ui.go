package main

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
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
	fmt.Fprintln(u.err, "prefixproxy: warning:", conf.Visible(fmt.Sprintf(format, args...)))
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

// A failure is an error with a remedy, which may be "", and an exit code.
type failure struct {
	error
	hint string
	code int
}

func (f failure) Unwrap() error { return f.error }

// hinted returns err, which is what the command failed with, with a remedy.
func hinted(err error, hint string) error { return failure{err, hint, exitFailed} }

// usageError returns an error of the command line.
func usageError(err error, hint string) error { return failure{err, hint, exitUsage} }

// exitCode returns the code that err ends the process with.
func exitCode(err error) int {
	if err == nil {
		return exitDone
	}
	if known, ok := errors.AsType[failure](err); ok {
		return known.code
	}
	if _, ok := errors.AsType[config.Error](err); ok {
		return exitConfig
	}
	return exitFailed
}

// report tells a person about err, or about each of the mistakes in a file.
func report(w io.Writer, err error) {
	if all, ok := errors.AsType[config.Error](err); ok {
		for _, mistake := range all {
			tell(w, mistake, mistake.Hint)
		}
		return
	}
	known, _ := errors.AsType[failure](err)
	text, hint := err.Error(), known.hint
	if errors.Is(err, syscall.EMFILE) {
		hint = "LimitNOFILE=8192 in the unit, or ulimit -n 8192"
	}
	if code := exitCode(err); code == exitUsage || code == exitConfig { // it tells what was typed
		text, hint = conf.Mask(text), conf.Mask(hint)
	}
	tell(w, text, hint)
}

func tell(w io.Writer, problem any, hint string) {
	fmt.Fprintln(w, "prefixproxy: error:", problem)
	if hint != "" {
		fmt.Fprintln(w, "prefixproxy: hint:", hint)
	}
}
