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
	LogFormat string `help:"Form of the log on stderr: text or json." enum:"text,json" default:"text" placeholder:"FORMAT"`
	LogLevel  string `help:"What to log: debug, info, warn or error, and what is worse; default: info, and warn for dev." enum:"debug,info,warn,error," default:"" placeholder:"LEVEL"`
}

// logger returns the logger that the flags describe; usual is the level where
// they give none.
func (f logFlags) logger(w io.Writer, usual slog.Level) *slog.Logger {
	level := usual
	if f.LogLevel != "" {
		level.UnmarshalText([]byte(f.LogLevel)) // it is one: kong has checked that
	}
	options := &slog.HandlerOptions{Level: level}
	out := &logWriter{}
	switch w := w.(type) {
	case journalFile:
		options.ReplaceAttr = withoutTimeAndLevel
		out.file, out.isJournal = w.File, true
	case *os.File:
		out.file = w
	default:
		return slog.New(f.handler(w, options))
	}
	return slog.New(lossyHandler{f.handler(out, options), out})
}

func (f logFlags) handler(w io.Writer, options *slog.HandlerOptions) slog.Handler {
	if f.LogFormat == "json" {
		return slog.NewJSONHandler(w, options)
	}
	return slog.NewTextHandler(w, options)
}

// withoutTimeAndLevel leaves away what the journal has in fields of its own.
func withoutTimeAndLevel(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
		return slog.Attr{}
	}
	return a
}

// A journalFile is a stderr that systemd's journal reads: each line begins with its
// priority, as sd-daemon(3) has it.
type journalFile struct {
	*os.File
	priority journal.Priority
}

// toJournal returns a file of the journal that writes to w, if that is what the journal reads.
func toJournal(w io.Writer) (journalFile, bool) {
	file, _ := w.(*os.File)
	is, _ := journal.StderrIsJournalStream()
	return journalFile{file, journal.PriWarning}, is && file == os.Stderr
}

// Write writes p, which holds whole lines.
func (j journalFile) Write(p []byte) (int, error) {
	if _, err := j.File.Write(prioritized(j.priority, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// prioritized puts the priority before each line of p.
func prioritized(priority journal.Priority, p []byte) (out []byte) {
	for ln := range bytes.Lines(p) {
		out = append(fmt.Appendf(out, "<%d>", priority), ln...)
	}
	return out
}

// A lossyHandler waits for nobody who reads the log: neither a renewal nor the end may hang
// on a terminal that is paused, or on a pipe whose reader is. What can't be written now is
// lost, and that is said later.
type lossyHandler struct {
	slog.Handler // writes to out
	out          *logWriter
}

// A logWriter is the file that the log goes to.
type logWriter struct {
	file      *os.File
	isJournal bool

	mu    sync.Mutex // held while a record is written
	level slog.Level // of that
	lost  int        // records since the last one that was written
	isCut bool       // of the last one, only a part was
}

// maxWrite is what a pipe takes without waiting, in bytes, where it takes anything: PIPE_BUF
// of pipe(7).
const maxWrite = 4096

// takesMore says whether the file takes that much now.
func (w *logWriter) takesMore() bool {
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(w.file.Fd()), Events: unix.POLLOUT}}, 0)
	return n > 0 || err != nil
}

func (h lossyHandler) Handle(ctx context.Context, r slog.Record) error {
	h.out.mu.Lock()
	defer h.out.mu.Unlock()
	if h.out.lost > 0 && h.out.takesMore() {
		said := slog.NewRecord(r.Time, slog.LevelWarn, "log lines lost, which nobody read in time", 0)
		said.Add("lines", h.out.lost)
		h.out.lost, h.out.level = 0, said.Level
		h.Handler.Handle(ctx, said)
	}
	h.out.level = r.Level
	return h.Handler.Handle(ctx, r)
}

// Write writes a record, as far as that is possible now; mu is held.
func (w *logWriter) Write(p []byte) (int, error) {
	out := p
	if w.isJournal {
		out = prioritized(priorityOf(w.level), p)
	}
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
