package main

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// A reloader makes a daemon go on with another configuration: all of it, or none.
// One goroutine uses it.
type reloader struct {
	daemon *daemon
	cfg    config // in force
}

// reload makes the configuration that load reads the one in force, and says what
// became of it.
func (r *reloader) reload(ctx context.Context, load func() (config, error)) {
	r.daemon.tell.send(sd.SdNotifyReloading + "\n" + sd.SdNotifyMonotonicUsec())
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
	r.daemon.tell.send(sd.SdNotifyReady) // the reload has ended
	r.daemon.tell.reloaded(problem)
}

// tryReload returns the keys that have changed.
func (r *reloader) tryReload(ctx context.Context, load func() (config, error)) (changed []string, err error) {
	cfg, err := load()
	if err != nil {
		return nil, err
	}
	changed = changedKeys(r.cfg, cfg)
	if err := refuse(changed); err != nil {
		return nil, err
	}
	if err := r.daemon.admin.Reload(ctx, cfg.Admin, func() error { return r.daemon.proxy.Reload(cfg.Proxy) }); err != nil {
		return nil, reloadHint(err)
	}
	r.daemon.events.Configure(cfg.Graphite)
	tuneMemory(cfg)
	cfg.warn(r.daemon.log)
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
		return !within(key, "membership") && !within(key, "etcd")
	})
	if len(fixed) == 0 {
		return nil
	}
	return hinted(
		fmt.Errorf("%s cannot change while the daemon runs", strings.Join(fixed, ", ")),
		"restart to change what is under membership or etcd, or put it back as it was")
}

// changedKeys returns the keys, in the order of the file, whose values differ.
func changedKeys(a, b config) (keys []string) {
	after := map[string]any{}
	for _, f := range values("", reflect.ValueOf(b)) {
		after[f.key] = f.value.Interface()
	}
	for _, f := range values("", reflect.ValueOf(a)) {
		if !reflect.DeepEqual(f.value.Interface(), after[f.key]) {
			keys = append(keys, f.key)
		}
	}
	return keys
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
