package main

import (
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"
)

// The log waits for no reader, whether records are many or long, and says what was lost when it is
// read again.
func TestLogWaitsForNobody(t *testing.T) {
	for _, tt := range []struct{ records, size int }{{5000, 100}, {1, 200_000}, {3, 60_000}} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		log := logFlags{}.logger(w, slog.LevelInfo)
		logged := make(chan struct{})
		go func() {
			defer close(logged)
			for range tt.records {
				log.With("who", "upstream").Info("state", "text", strings.Repeat("x", tt.size))
			}
		}()
		select {
		case <-logged:
		case <-time.After(20 * time.Second):
			t.Fatalf("logging %d records of %d bytes waits for the reader", tt.records, tt.size)
		}
		if _, err := io.ReadFull(r, make([]byte, 32<<10)); err != nil {
			t.Fatal(err)
		}
		log.Info("last")
		w.Close()
		text, err := io.ReadAll(r)
		lines := strings.Split(strings.TrimSpace(string(text)), "\n")
		said, last := lines[max(0, len(lines)-2)], lines[len(lines)-1]
		if err != nil || !strings.HasPrefix(said, "time=") || !strings.Contains(said, "log lines lost: stderr was not read in time\" lines=") || !strings.Contains(last, "msg=last") {
			t.Errorf("%d records of %d bytes: got %v and the end %q", tt.records, tt.size, err, text[max(0, len(text)-300):])
		}
	}
}
