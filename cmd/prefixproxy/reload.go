package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/unit"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type reloadCmd struct {
	PID int `arg:"" optional:"" help:"The process ID of the daemon: $MAINPID."`
}

// reloadPatience is how long a daemon has to answer.
const reloadPatience = 30 * time.Second

// Run sends SIGHUP to the daemon of our unit and waits for the result.
func (c *reloadCmd) Run(ui *ui) error {
	dir, ok := unit.RuntimeDir()
	if !ok || c.PID <= 0 {
		return hinted(errors.New("reload works only in a unit with RuntimeDirectory=prefixproxy prefixproxy-queue"), "systemctl reload prefixproxy; without systemd: kill -HUP PID")
	}
	path := filepath.Join(dir, unit.ReloadSocket)
	os.Remove(path) // left behind by one that was killed
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: path})
	if err != nil {
		return err
	}
	defer os.Remove(path)
	defer conn.Close()
	if err := syscall.Kill(c.PID, syscall.SIGHUP); err != nil {
		return fmt.Errorf("signal process %d: %w", c.PID, err)
	}
	conn.SetReadDeadline(time.Now().Add(reloadPatience))
	answer := make([]byte, 64<<10)
	n, err := conn.Read(answer)
	if err != nil {
		return fmt.Errorf("process %d has not reported the result of the reload: %w", c.PID, err)
	}
	if problem := string(answer[:n]); problem != "" {
		return errors.New("configuration not reloaded; the old one stays in force:\n" + strings.TrimPrefix(problem, "prefixproxy: error: "))
	}
	return nil
}

// A reloader gives a daemon another configuration: all of it, or none. One goroutine uses it.
type reloader struct {
	daemon *daemon
	cfg    config.Config // in force
}

// reload puts the configuration that load returns into force, and reports the result.
func (r *reloader) reload(ctx context.Context, load func() (config.Config, error)) {
	r.daemon.tell.Send(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
	changed, err := r.tryReload(ctx, load)
	problem := ""
	switch {
	case err != nil:
		var text strings.Builder
		report(&text, err)
		problem = strings.TrimSpace(text.String())
		r.daemon.log.Error("configuration not reloaded; the old one stays in force", "err", problem)
	case len(changed) == 0:
		r.daemon.log.Info("configuration reloaded: nothing has changed")
	default:
		r.daemon.log.Info("configuration reloaded", "changed", strings.Join(changed, " "))
	}
	r.daemon.reloads.add(err == nil)
	r.daemon.tell.Send(sd.SdNotifyReady) // the reload has ended
	r.daemon.tell.Reloaded(problem)
}

// tryReload returns the keys that have changed. If it fails, nothing has.
func (r *reloader) tryReload(ctx context.Context, load func() (config.Config, error)) (changed []string, err error) {
	cfg, err := load()
	if err != nil {
		return nil, err
	}
	changed = config.Changed(r.cfg, cfg)
	if err := refuse(changed); err != nil {
		return nil, err
	}
	if err := r.daemon.admin.Reload(ctx, cfg.Admin, func() error { return r.daemon.proxy.Reload(cfg.Proxy) }); err != nil {
		return nil, reloadHint(err)
	}
	r.daemon.events.Configure(cfg.Graphite)
	tuneMemory(cfg)
	cfg.Warn(r.daemon.log)
	r.cfg = cfg
	return changed, nil
}

// reloadHint is bindHint, but the socket in the way may be our own.
func reloadHint(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return hinted(err, "sudo ss -lntupx shows who uses it; if it is this daemon itself (whose address is now spelled differently, or has another mode): systemctl restart prefixproxy")
	}
	return bindHint(err)
}

// refuse returns an error that names the keys among changed that cannot change while the daemon
// runs, because they decide which name is whose.
func refuse(changed []string) error {
	fixed := slices.DeleteFunc(slices.Clone(changed), func(key string) bool {
		return !strings.HasPrefix(key, "membership.") && !strings.HasPrefix(key, "etcd.")
	})
	if len(fixed) == 0 {
		return nil
	}
	return hinted(
		fmt.Errorf("%s cannot change while the daemon runs", strings.Join(fixed, ", ")),
		"to change keys under membership or etcd: systemctl restart prefixproxy; or restore them")
}

// reloads holds the result of the last reload; the start counts as one.
type reloads struct {
	changed    chan struct{} // cap 1: signals a new result
	refused    atomic.Bool
	successful prometheus.Gauge
	success    prometheus.Gauge // when it last succeeded
}

func newReloads(metrics prometheus.Registerer) *reloads {
	r := &reloads{
		changed: make(chan struct{}, 1),
		successful: promauto.With(metrics).NewGauge(prometheus.GaugeOpts{
			Name: "prefixproxy_reload_successful",
			Help: "Whether the last attempt to load the configuration succeeded: 1 or 0.",
		}),
		success: promauto.With(metrics).NewGauge(prometheus.GaugeOpts{
			Name: "prefixproxy_reload_success_timestamp_seconds",
			Help: "When a configuration was last loaded, in Unix seconds.",
		}),
	}
	r.add(true)
	return r
}

func (r *reloads) add(good bool) {
	r.refused.Store(!good)
	if good {
		r.successful.Set(1)
		r.success.SetToCurrentTime()
	} else {
		r.successful.Set(0)
	}
	select {
	case r.changed <- struct{}{}:
	default:
	}
}
