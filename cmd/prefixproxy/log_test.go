package main

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// Nobody waits for who reads the log, and what that cost is said when it is read again.
func TestLogWaitsForNobody(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	log, err := logFlags{}.logger(w, slog.LevelInfo)
	if err != nil {
		t.Fatal(err)
	}
	logged := make(chan struct{})
	go func() {
		defer close(logged)
		for range 5000 {
			log.With("who", "upstream").Info("state", "text", strings.Repeat("x", 100))
		}
	}()
	select {
	case <-logged:
	case <-time.After(20 * time.Second):
		t.Fatal("logging waits for the reader")
	}
	if _, err := io.ReadFull(r, make([]byte, 32<<10)); err != nil {
		t.Fatal(err)
	}
	log.Info("last")
	w.Close()
	text, err := io.ReadAll(r)
	if err != nil || !strings.Contains(string(text), "log lines lost, which nobody read in time\" lines=") || !strings.Contains(string(text), "msg=last") {
		t.Errorf("got %v and the end %q", err, text[max(0, len(text)-300):])
	}
}
