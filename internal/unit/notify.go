package unit

import (
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// A Notifier tells systemd, where it has started us and waits for it, how we are:
// sd_notify(3).
type Notifier struct {
	Log    *slog.Logger
	failed atomic.Bool // the last time, which was logged
}

// Watchdog returns how often systemd is to hear from us at least; 0: it does not wait for that.
func (n *Notifier) Watchdog() time.Duration {
	limit, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		n.Log.Warn("watchdog not known", "err", err)
	}
	return limit / 3
}

// Reloaded answers who waits for the end of a reload: "" is a good one.
func (n *Notifier) Reloaded(problem string) {
	dir, ok := RuntimeDir()
	if !ok {
		return
	}
	conn, err := net.Dial("unixgram", filepath.Join(dir, ReloadSocket))
	if err != nil {
		return // nobody waits
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(problem)); err != nil {
		n.Log.Warn("result of the reload not told", "err", err)
	}
}

// Send tells it a state.
func (n *Notifier) Send(state string) {
	if _, err := sd.SdNotify(false, state); err == nil {
		n.failed.Store(false)
	} else if !n.failed.Swap(true) {
		n.Log.Warn("systemd not notified", "err", err)
	}
}
