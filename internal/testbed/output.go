package testbed

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// An output collects lines, as what a process prints or an upstream receives.
// Any goroutine may use it.
type output struct {
	mu      sync.Mutex
	lines   []string
	tail    []byte        // of the line that has not ended
	changed chan struct{} // closed at the next line
}

// newOutput returns an empty output.
func newOutput() *output { return &output{changed: make(chan struct{})} }

// Write implements io.Writer. It reads p.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	data := append(o.tail, p...)
	for {
		line, rest, ok := bytes.Cut(data, []byte("\n"))
		if !ok {
			break
		}
		o.lines, data = append(o.lines, string(line)), rest
		close(o.changed)
		o.changed = make(chan struct{})
	}
	o.tail = slices.Clone(data)
	return len(p), nil
}

// Lines returns the lines so far.
func (o *output) Lines() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.lines)
}

// Text returns the lines so far, and what has come of the next.
func (o *output) Text() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(append(slices.Clone(o.lines), string(o.tail)), "\n")
}

// tailText is the end of Text: what a person wants to see of it.
func (o *output) tailText() string {
	const most = 50
	lines := strings.Split(o.Text(), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

// Await waits for a line that contains text, from the beginning, and returns it.
func (o *output) Await(t testing.TB, text string) string {
	t.Helper()
	deadline := time.After(patience)
	for seen := 0; ; {
		lines, changed := o.since(seen)
		for _, line := range lines {
			if strings.Contains(line, text) {
				return line
			}
		}
		seen += len(lines)
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("no line with %q within %v; the last are:\n%s", text, patience, o.tailText())
		}
	}
}

// since returns the lines after the first n, and what tells of the next.
func (o *output) since(n int) ([]string, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.lines[n:]), o.changed
}
