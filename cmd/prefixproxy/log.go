package main

import (
	"fmt"
	"io"
	"log/slog"
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
	if f.LogFormat == "json" {
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return slog.New(slog.NewTextHandler(w, options)), nil
}
