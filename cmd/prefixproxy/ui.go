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
//   - stdout gets what was asked for, and nothing else, so that it can be piped.
//     Everything else goes to stderr.
//   - An error is "prefixproxy: error: " and a sentence that names the object; if it
//     helps, "prefixproxy: hint: " follows, with something to type.
//   - All mistakes in a file are reported at once.
//   - Only main exits: with 0 if the command succeeded, 1 if it failed, 2 if the command
//     line is wrong, and 78 if the configuration is, and nothing was started. A crash of
//     the Go runtime also exits with 2: no unit may take that for a usage error.

// A ui is where a command reads and writes.
type ui struct {
	in  io.Reader
	out io.Writer
	err io.Writer
	log *slog.Logger // to err
}

// notef points out something that may surprise.
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

// A failure is an error with a remedy (which may be "") and an exit code.
type failure struct {
	error
	hint string
	code int
}

func (f failure) Unwrap() error { return f.error }

// hinted returns err with a remedy; the command exits with 1.
func hinted(err error, hint string) error { return failure{err, hint, exitFailed} }

// usageError returns err, a mistake on the command line, with a remedy.
func usageError(err error, hint string) error { return failure{err, hint, exitUsage} }

// exitCode returns the exit code for err.
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

// report prints err and its hint; of a config.Error, each mistake.
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
	if code := exitCode(err); code == exitUsage || code == exitConfig { // it quotes what was typed
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
