package main

import (
	"log/slog"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// A notifier tells systemd, where it has started us and waits for it, how we are:
// sd_notify(3).
type notifier struct{ log *slog.Logger }

// ready says that the listeners are up, whether etcd and Graphite are or not.
func (n notifier) ready(status string) { n.send(sd.SdNotifyReady + "\nSTATUS=" + status) }

// reloading says that a reload has begun. It ends with ready.
func (n notifier) reloading() { n.send(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec()) }

func (n notifier) stopping() { n.send(sd.SdNotifyStopping + "\nSTATUS=draining") }

func (n notifier) send(state string) {
	if _, err := sd.SdNotify(false, state); err != nil {
		n.log.Warn("systemd not notified", "err", err)
	}
}
