package unit

import (
	"log/slog"
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// A failure to notify systemd is logged once, until it succeeds.
func TestNotifyNobody(t *testing.T) {
	var log strings.Builder
	n := Notifier{Log: slog.New(slog.NewTextHandler(&log, nil))}
	path := filepath.Join(t.TempDir(), "notify")
	t.Setenv("NOTIFY_SOCKET", path)
	for range 3 {
		n.Send("WATCHDOG=1")
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		t.Fatal(err)
	}
	n.Send("WATCHDOG=1")
	conn.Close()
	for range 3 {
		n.Send("WATCHDOG=1")
	}
	if got := strings.Count(log.String(), "systemd not notified"); got != 2 {
		t.Errorf("said %d times, want 2:\n%s", got, &log)
	}
}
