package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// logFlags are the flags of every command that say how to log.
type logFlags struct {
	LogFormat string `help:"Form of the log on stderr: text or json." enum:"text,json" default:"text" placeholder:"FORMAT"`
	LogLevel  string `help:"What to log: debug, info, warn or error, and what is worse; default: info, and warn for dev." placeholder:"LEVEL"`
}

// logger returns the logger that the flags describe; usual is the level where
// they give none.
func (f logFlags) logger(w io.Writer, usual slog.Level) (*slog.Logger, error) {
	level := usual
	if f.LogLevel != "" {
		if err := level.UnmarshalText([]byte(f.LogLevel)); err != nil {
			return nil, usageError{hinted{fmt.Errorf("--log-level: %w", err), "debug, info, warn or error"}}
		}
	}
	options := &slog.HandlerOptions{Level: level}
	switch w := w.(type) {
	case *journal:
		options.ReplaceAttr = withoutTimeAndLevel
		return slog.New(lossyHandler{journalHandler{f.handler(w, options), w}, &reader{file: w.File}}), nil
	case *os.File:
		return slog.New(lossyHandler{f.handler(w, options), &reader{file: w}}), nil
	}
	return slog.New(f.handler(w, options)), nil
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

// A journal is a stderr that systemd's journal reads: each line begins with its
// priority, as sd-daemon(3) has it.
type journal struct {
	*os.File

	mu       sync.Mutex // held while priority is that of one record
	priority priority
}

// A priority is one of syslog(3).
type priority int

const (
	priorityError   priority = 3
	priorityWarning priority = 4
	priorityInfo    priority = 6
	priorityDebug   priority = 7
)

// toJournal returns a journal that writes to w, if that is what the journal reads.
func toJournal(w io.Writer, stream string) (*journal, bool) {
	file, ok := w.(*os.File)
	if !ok || stream == "" {
		return nil, false
	}
	info, err := file.Stat()
	if err != nil {
		return nil, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || stream != fmt.Sprintf("%d:%d", stat.Dev, stat.Ino) {
		return nil, false
	}
	return &journal{File: file, priority: priorityWarning}, true
}

// Write puts the priority before each line of p, which holds whole ones.
func (j *journal) Write(p []byte) (int, error) {
	var out []byte
	for ln := range bytes.Lines(p) {
		out = append(fmt.Appendf(out, "<%d>", j.priority), ln...)
	}
	if _, err := j.File.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

// at calls write, whose lines have a priority of their own.
func (j *journal) at(p priority, write func() error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	usual := j.priority
	j.priority = p
	defer func() { j.priority = usual }()
	return write()
}

// A journalHandler writes records to a journal, each with the priority of its level.
type journalHandler struct {
	slog.Handler
	journal *journal
}

func (h journalHandler) Handle(ctx context.Context, r slog.Record) error {
	p := priorityDebug
	switch {
	case r.Level >= slog.LevelError:
		p = priorityError
	case r.Level >= slog.LevelWarn:
		p = priorityWarning
	case r.Level >= slog.LevelInfo:
		p = priorityInfo
	}
	return h.journal.at(p, func() error { return h.Handler.Handle(ctx, r) })
}

func (h journalHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return journalHandler{h.Handler.WithAttrs(attrs), h.journal}
}

func (h journalHandler) WithGroup(name string) slog.Handler {
	return journalHandler{h.Handler.WithGroup(name), h.journal}
}

// A lossyHandler waits for nobody who reads the log: neither a renewal nor the end may hang
// on a terminal that is paused, or on a pipe whose reader is. What can't be written now is
// lost, and that is said later.
type lossyHandler struct {
	slog.Handler
	reader *reader
}

// A reader of the log, as far as we know it.
type reader struct {
	file *os.File

	mu   sync.Mutex // held from asking to writing
	lost int        // records since the last one that was written
}

func (h lossyHandler) Handle(ctx context.Context, r slog.Record) error {
	h.reader.mu.Lock()
	defer h.reader.mu.Unlock()
	if n, err := unix.Poll([]unix.PollFd{{Fd: int32(h.reader.file.Fd()), Events: unix.POLLOUT}}, 0); n == 0 && err == nil {
		h.reader.lost++
		return nil
	}
	if h.reader.lost > 0 {
		said := slog.NewRecord(r.Time, slog.LevelWarn, "log lines lost, which nobody read in time", 0)
		said.Add("lines", h.reader.lost)
		h.reader.lost = 0
		h.Handler.Handle(ctx, said)
	}
	return h.Handler.Handle(ctx, r)
}

func (h lossyHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return lossyHandler{h.Handler.WithAttrs(attrs), h.reader}
}

func (h lossyHandler) WithGroup(name string) slog.Handler {
	return lossyHandler{h.Handler.WithGroup(name), h.reader}
}
