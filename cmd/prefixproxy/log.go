package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"

	"github.com/coreos/go-systemd/v22/journal"
	"golang.org/x/sys/unix"
)

// logFlags are the flags of every command that say how to log.
type logFlags struct {
	LogFormat string `help:"Log format on stderr: text (default) or json." enum:"text,json" default:"text" placeholder:"FORMAT"`
	LogLevel  string `help:"Lowest level to log: debug, info, warn or error; default: info (dev: warn)." enum:"debug,info,warn,error," default:"" placeholder:"LEVEL"`
}

// logger returns the logger that the flags describe; usual is the level if they give none.
func (f logFlags) logger(w io.Writer, usual slog.Level) *slog.Logger {
	level := usual
	if f.LogLevel != "" {
		level.UnmarshalText([]byte(f.LogLevel)) // kong has checked it
	}
	options := &slog.HandlerOptions{Level: level}
	file, ok := w.(*os.File)
	if !ok {
		return slog.New(f.handler(w, options))
	}
	out := &logWriter{file: file}
	if isJournal(file) {
		options.ReplaceAttr = withoutTimeAndLevel
	}
	return slog.New(lossyHandler{f.handler(out, options), out})
}

func (f logFlags) handler(w io.Writer, options *slog.HandlerOptions) slog.Handler {
	if f.LogFormat == "json" {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// withoutTimeAndLevel leaves out what the journal has in fields of its own.
func withoutTimeAndLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

// isJournal reports whether w is our stderr, and systemd's journal reads it.
func isJournal(w io.Writer) bool {
	is, _ := journal.StderrIsJournalStream()
	return is && w == io.Writer(os.Stderr)
}

// forJournal returns the lines in p, each with its priority before it, as described in sd-daemon(3), if
// the journal reads w.
func forJournal(w io.Writer, priority journal.Priority, p []byte) (out []byte) {
	if !isJournal(w) {
		return p
	}
	for ln := range bytes.Lines(p) {
		out = append(fmt.Appendf(out, "<%d>", priority), ln...)
	}
	return out
}

// A lossyHandler never waits for the reader of the log: neither a renewal nor the shutdown may hang
// because a terminal or the reader of a pipe is paused. What can't be written now is lost, and
// reported later.
type lossyHandler struct {
	slog.Handler // writes to out
	out          *logWriter
}

// A logWriter is the file that the log goes to.
type logWriter struct {
	file *os.File

	mu    sync.Mutex // held while a record is written
	level slog.Level // of that record
	lost  int        // records since the last one that was written
	isCut bool       // only part of the last one was
}

// maxWrite is how many bytes a pipe takes without blocking if it takes any: PIPE_BUF in pipe(7).
const maxWrite = 4096

// takesMore reports whether the file takes that much now.
func (w *logWriter) takesMore() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.file.Fd()), Events: unix.POLLOUT}}, 0)
	return n > 0 || err != nil
}

func (h lossyHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	if h.out.lost > 0 && h.out.takesMore() {
		loss := slog.NewRecord(r.Time, slog.LevelWarn, "log lines lost: stderr was not read in time", 0)
		loss.Add("lines", h.out.lost)
		h.out.lost, h.out.level = 0, loss.Level
		h.Handler.Handle(ctx, loss)
	}
	h.out.level = r.Level
	return h.Handler.Handle(ctx, r)
}

// Write writes as much of a record as the file takes now; mu is held.
func (w *logWriter) Write(p []byte) (int, error) {
	out := forJournal(w.file, priorityOf(w.level), p)
	if w.isCut {
		out = append([]byte("\n"), out...)
	}
	for part := range slices.Chunk(out, maxWrite) {
		if !w.takesMore() {
			w.lost++
			return len(p), nil
		}
		if _, err := w.file.Write(part); err != nil {
			return 0, err
		}
		w.isCut = true
	}
	w.isCut = false
	return len(p), nil
}

func priorityOf(level slog.Level) journal.Priority {
	switch {
	case level >= slog.LevelError:
		return journal.PriErr
	case level >= slog.LevelWarn:
		return journal.PriWarning
	case level >= slog.LevelInfo:
		return journal.PriInfo
	}
	return journal.PriDebug
}

func (h lossyHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lossyHandler{h.Handler.WithAttrs(attrs), h.out}
}

func (h lossyHandler) WithGroup(name string) slog.Handler {
	return lossyHandler{h.Handler.WithGroup(name), h.out}
}
