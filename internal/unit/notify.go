package unit

import (
	"log/slog"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// A Notifier tells systemd how we are, if systemd has started us and wants to know: sd_notify(3).
type Notifier struct {
	Log    *slog.Logger
	failed atomic.Bool // the last notification, which was logged
}

// Watchdog returns how often systemd must hear from us; 0 if it need not.
func (n *Notifier) Watchdog() time.Duration {
	limit, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		n.Log.Warn("invalid watchdog settings from systemd", "err", err)
	}
	return limit / 3
}

// Reloaded sends the result of a reload to the command that waits for it; "" is success.
func (n *Notifier) Reloaded(problem string) {
	dir, ok := RuntimeDir()
	if !ok {
		return
	}
	conn, err := net.Dial("unixgram", filepath.Join(dir, ReloadSocket))
	if err != nil {
		return // nobody is waiting
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(problem)); err != nil {
		n.Log.Warn("result of the reload not delivered", "err", err)
	}
}

// Send sends systemd a notification.
func (n *Notifier) Send(state string) {
	if _, err := sd.SdNotify(false, state); err == nil {
		n.failed.Store(false)
	} else if !n.failed.Swap(true) {
		n.Log.Warn("systemd not notified", "err", err)
	}
}
