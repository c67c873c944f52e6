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
	PID int `arg:"" optional:"" help:"The daemon's process: $MAINPID."`
}

// reloadPatience is how long a daemon has to answer.
const reloadPatience = 30 * time.Second

// Run sends SIGHUP to a daemon of our own unit and waits for what becomes of it.
func (c *reloadCmd) Run(ui *ui) error {
	dir, ok := unit.RuntimeDir()
	if !ok || c.PID <= 0 {
		return hinted(errors.New("reload is for the unit, and its RuntimeDirectory=prefixproxy prefixproxy-queue"), "systemctl reload prefixproxy, or kill -HUP with the daemon's process")
	}
	path := filepath.Join(dir, unit.ReloadSocket)
	os.Remove(path) // of one that was killed
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
		return fmt.Errorf("process %d has not said what became of the reload: %w", c.PID, err)
	}
	if problem := string(answer[:n]); problem != "" {
		return errors.New("configuration not reloaded; the old one stays:\n" + strings.TrimPrefix(problem, "prefixproxy: error: "))
	}
	return nil
}

// A reloader makes a daemon go on with another configuration: all of it, or none.
// One goroutine uses it.
type reloader struct {
	daemon *daemon
	cfg    config.Config // in force
}

// reload makes the configuration that load reads the one in force, and says what
// became of it.
func (r *reloader) reload(ctx context.Context, load func() (config.Config, error)) {
	r.daemon.tell.Send(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
	changed, err := r.tryReload(ctx, load)
	problem := ""
	switch {
	case err != nil:
		var text strings.Builder
		report(&text, err)
		problem = strings.TrimSpace(text.String())
		r.daemon.log.Error("configuration not reloaded; the old one stays", "err", problem)
	case len(changed) == 0:
		r.daemon.log.Info("configuration reloaded: nothing has changed")
	default:
		r.daemon.log.Info("configuration reloaded", "changed", strings.Join(changed, " "))
	}
	r.daemon.reloads.add(err == nil)
	r.daemon.tell.Send(sd.SdNotifyReady) // the reload has ended
	r.daemon.tell.Reloaded(problem)
}

// tryReload returns the keys that have changed.
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

// reloadHint is bindHint where what is in the way may be ours.
func reloadHint(err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return hinted(err, "if it is this daemon itself (another spelling, or mode, of an address that it has): systemctl restart prefixproxy; otherwise, who it is: sudo ss -lntupx")
	}
	return bindHint(err)
}

// refuse returns an error that names the keys among changed which a running daemon
// cannot change: it would be another host's, or another cluster's.
func refuse(changed []string) error {
	fixed := slices.DeleteFunc(slices.Clone(changed), func(key string) bool {
		return !strings.HasPrefix(key, "membership.") && !strings.HasPrefix(key, "etcd.")
	})
	if len(fixed) == 0 {
		return nil
	}
	return hinted(
		fmt.Errorf("%s cannot change while the daemon runs", strings.Join(fixed, ", ")),
		"restart to change what is under membership or etcd, or put it back as it was")
}

// reloads is what became of the last one: the start is one.
type reloads struct {
	changed    chan struct{} // cap 1: there was another one
	refused    atomic.Bool
	successful prometheus.Gauge
	success    prometheus.Gauge // when
}

func newReloads(metrics prometheus.Registerer) *reloads {
	r := &reloads{
		changed: make(chan struct{}, 1),
		successful: promauto.With(metrics).NewGauge(prometheus.GaugeOpts{
			Name: "prefixproxy_reload_successful",
			Help: "1 if the configuration file, when it was read last, was taken; otherwise 0.",
		}),
		success: promauto.With(metrics).NewGauge(prometheus.GaugeOpts{
			Name: "prefixproxy_reload_success_timestamp_seconds",
			Help: "When a configuration was taken last, in Unix seconds.",
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
