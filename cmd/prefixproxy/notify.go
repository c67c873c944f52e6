package main

import (
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
)

// A notifier tells systemd, where it has started us and waits for it, how we are:
// sd_notify(3).
type notifier struct {
	log    *slog.Logger
	failed atomic.Bool // the last time, which was logged
}

// watchdog returns how often systemd is to hear from us at least; 0: it does not wait for that.
func (n *notifier) watchdog() time.Duration {
	limit, err := sd.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("watchdog not known", "err", err)
	}
	return limit / 3
}

// reloaded answers who waits for the end of a reload: "" is a good one.
func (n *notifier) reloaded(problem string) {
	dir, ok := ownRuntimeDir()
	if !ok {
		return
	}
	conn, err := net.Dial("unixgram", filepath.Join(dir, reloadSocket))
	if err != nil {
		return // nobody waits
	}
	defer conn.Close()
	conn.SetWriteDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte(problem)); err != nil {
		n.log.Warn("result of the reload not told", "err", err)
	}
}

// reloadSocket is where `prefixproxy reload` waits for an answer.
const reloadSocket = "reload.sock"

// ownRuntimeDir returns the second of the directories in memory that systemd gives
// us. The first is for sockets, and gets mounted into containers.
func ownRuntimeDir() (dir string, ok bool) {
	dirs := strings.Split(os.Getenv("RUNTIME_DIRECTORY"), ":")
	if len(dirs) < 2 {
		return "", false
	}
	return dirs[1], true
}

// underUnit says whether our unit started us, and not a container, which has no INVOCATION_ID.
func underUnit() bool {
	_, ok := ownRuntimeDir()
	return ok && os.Getenv("INVOCATION_ID") != ""
}

// send tells it a state.
func (n *notifier) send(state string) {
	if _, err := sd.SdNotify(false, state); err == nil {
		n.failed.Store(false)
	} else if !n.failed.Swap(true) {
		n.log.Warn("systemd not notified", "err", err)
	}
}
