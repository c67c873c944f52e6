package unit

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestSocketsThatAreNone(t *testing.T) {
	t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
	for _, n := range []string{"1000000000", "100000"} {
		t.Setenv("LISTEN_FDS", n)
		if files, err := Sockets(); err == nil || !strings.HasPrefix(err.Error(), "LISTEN_FDS="+n+": descriptor ") {
			t.Errorf("LISTEN_FDS=%s: got %d sockets, error %v", n, len(files), err)
		}
	}
	for _, none := range []string{"0", "-1", "abc", ""} {
		t.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		t.Setenv("LISTEN_FDS", none)
		if files, err := Sockets(); err != nil || len(files) > 0 {
			t.Errorf("LISTEN_FDS=%q: got %d sockets, error %v, want none", none, len(files), err)
		}
	}
	t.Setenv("LISTEN_PID", "1")
	t.Setenv("LISTEN_FDS", "7")
	if files, err := Sockets(); err != nil || len(files) > 0 {
		t.Errorf("for another process: got %d sockets, error %v, want none", len(files), err)
	}
}
