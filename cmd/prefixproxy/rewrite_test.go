package main

import (
	"bufio"
	"bytes"
	"io"
	"runtime"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// A line that is too long costs no other line.
func TestRewriteLongLines(t *testing.T) {
	file := configFile(t, complete)
	for _, size := range []int{line.MaxLen, line.MaxLen + 1, 64 << 10, 1 << 20} {
		long := "host." + strings.Repeat("x", size-len("host."))
		in := strings.NewReader("host.a:1|c\n" + long + "\nhost.b:1|c\n" + long)
		var out, refused bytes.Buffer
		code := run([]string{"rewrite", "--config", file, "--name", "Denali", "--protocol", "statsd"}, in, &out, &refused)
		if got, want := out.String(), "Denali.a:1|c\nDenali.b:1|c\n"; code != exitDone || got != want {
			t.Errorf("%d bytes: got exit code %d and %q, want 0 and %q", size, code, got, want)
		}
		if got := strings.Count(refused.String(), "\n"); got != 2 || !strings.HasPrefix(refused.String(), "line 2: ") || !strings.Contains(refused.String(), "\nline 4: ") {
			t.Errorf("%d bytes: got %d lines on stderr, want line 2 and line 4:\n%s", size, got, &refused)
		}
	}
}

// Input without line ends, like a device, costs no memory.
func TestRewriteEndless(t *testing.T) {
	file := configFile(t, complete)
	const size = 64 << 20
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	code := run([]string{"rewrite", "--config", file, "--name", "Denali", "--protocol", "carbon"}, io.LimitReader(zeros{}, size), io.Discard, io.Discard)
	runtime.ReadMemStats(&after)
	if spent := after.TotalAlloc - before.TotalAlloc; code != exitDone || spent > size/2 {
		t.Errorf("exit code %d, %d bytes allocated for %d", code, spent, size)
	}
}

// zeros reads like /dev/zero.
type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}

// What was read is written before more is read.
func TestRewriteInAPipe(t *testing.T) {
	file := configFile(t, complete)
	in, feed := io.Pipe()
	lines, out := io.Pipe()
	ended := make(chan int)
	go func() {
		ended <- run([]string{"rewrite", "--config", file, "--name", "Denali", "--protocol", "carbon", "--now", "7"}, in, out, io.Discard)
	}()
	answers := bufio.NewReader(lines)
	for range 3 {
		if _, err := io.WriteString(feed, "host.a 1 -1\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := answers.ReadString('\n'); err != nil || got != "Denali.a 1 7\n" {
			t.Fatalf("got %q, %v, want %q", got, err, "Denali.a 1 7\n")
		}
	}
	feed.Close()
	if code := <-ended; code != exitDone {
		t.Errorf("exit code: got %d, want %d", code, exitDone)
	}
}
