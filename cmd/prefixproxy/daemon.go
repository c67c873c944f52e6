package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	sd "github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"golang.org/x/sync/errgroup"

	"github.com/prefixproxy/prefixproxy/internal/admin"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/events"
	"github.com/prefixproxy/prefixproxy/internal/fleet"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
	"github.com/prefixproxy/prefixproxy/internal/statedir"
	"github.com/prefixproxy/prefixproxy/internal/store"
	"github.com/prefixproxy/prefixproxy/internal/unit"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A daemon is the program at work: who we are, the data path, and the page.
type daemon struct {
	log      *slog.Logger
	client   *etcd.Client
	holder   *membership.Holder
	proxy    *proxy.Proxy
	admin    *admin.Server
	reloads  *reloads
	registry *prometheus.Registry // of our own metrics
	pool     *fleet.Pool          // as the page shows it
	events   *events.Sender       // to Graphite
	health   health
	tell     unit.Notifier
}

// newDaemon makes the parts of a daemon. It takes the sockets that were passed to us; the Carbon
// queue may be in any of queueDirs. Its only I/O is to read the password and certificates for etcd.
// The caller closes its client.
func newDaemon(cfg config.Config, stateDir *state.Dir, ui *ui, sockets []*os.File, queueDirs []string) (d *daemon, err error) {
	cfg.Warn(ui.log)
	d = &daemon{log: ui.log, tell: unit.Notifier{Log: ui.log}}
	if d.client, err = cfg.Etcd.Client(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			d.client.Close()
		}
	}()
	if d.holder, err = membership.NewHolder(d.client, cfg.Membership, stateDir, d.log); err != nil {
		return nil, err
	}
	d.registry = prometheus.NewRegistry()
	options := proxy.Options{
		Stdout: ui.out, Log: d.log, Owner: d.holder.Owner(), Telemetry: d.registry, Sockets: sockets,
		Places: store.Places{State: stateDir.Path(), Memory: queueDirs},
	}
	if d.proxy, err = proxy.New(cfg.Proxy, d.holder, options); err != nil {
		return nil, err
	}
	d.pool = fleet.New(cfg.Membership.Names, fleet.MaxOthers, func(ctx context.Context, asks []pool.AskPast) (pool.Glance, error) {
		ctx, cancel := context.WithTimeout(ctx, glanceTime)
		defer cancel()
		return pool.LookAt(ctx, d.client, cfg.Membership.Pool, asks...)
	})
	d.events = events.New(cfg.Graphite, d.holder, d.log)
	d.registry.MustRegister(d.proxy, admin.Collector{Names: d.holder, Pool: d.pool, TTL: cfg.Membership.TTL}, admin.NewBuildInfo(buildVersion(), buildCommit()))
	d.reloads = newReloads(d.registry)
	process := prometheus.NewRegistry() // separate: our telemetry leaves these out, to cost little
	process.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	d.admin = admin.New(cfg.Admin, admin.Source{
		Version: buildVersion(), Names: d.holder, Lines: d.proxy, Gatherer: prometheus.Gatherers{d.registry, process},
		Pool: d.pool, Alive: d.health.Alive, Refused: d.reloads.refused.Load,
	}, d.log)
	return d, nil
}

// glanceTime bounds one request for the page.
const glanceTime = 2 * time.Second

// fewDescriptors are not enough for the sockets of the default configuration, etcd, and the files of
// the queue: lines would be lost.
const fewDescriptors = 33

// bind opens all sockets, before anything is claimed.
func (d *daemon) bind(ctx context.Context) error {
	if n := sockets.Descriptors(); n <= fewDescriptors {
		return fmt.Errorf("%d file descriptors are not enough: %w", n, syscall.EMFILE)
	}
	if err := d.proxy.Bind(ctx); err != nil {
		return bindHint(err)
	}
	return bindHint(d.admin.Bind(ctx))
}

// bindHint adds a remedy to the error of a socket that can't be bound.
func bindHint(err error) error {
	text, hint := fmt.Sprint(err), ""
	group, isUnknown := errors.AsType[user.UnknownGroupError](err)
	switch {
	case err == nil:
		return nil
	case isUnknown:
		hint = "sudo groupadd --system " + conf.ShellQuote(string(group)) + ", or name an existing group: getent group"
	case errors.Is(err, proxy.ErrUnwantedSocket):
		hint = "add its address to listen:, written as in the socket unit, or remove it from the unit and restart both"
	case errors.Is(err, syscall.EADDRINUSE):
		hint = "another prefixproxy, statsd or Graphite uses it (sudo ss -lntupx shows which): stop it, or move listen: (or admin:) to another port"
	case strings.Contains(text, "/run/prefixproxy-sockets/"):
		hint = "systemd makes that directory, with the sockets in it: systemctl enable --now prefixproxy-unix.socket"
	case errors.Is(err, syscall.EPERM) && strings.Contains(text, "group="):
		hint = "only a member of a group may give a socket to it: systemctl edit prefixproxy: [Service] SupplementaryGroups= with that group"
	case errors.Is(err, syscall.EACCES) && !strings.Contains(text, "unix"):
		hint = "use port 1024 or higher"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		hint = "this host has no such address (ip address lists those that it has); localhost is 127.0.0.1 and ::1"
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ENOTDIR):
		hint = "use an existing directory that this user may write; for the service: /run/prefixproxy"
	}
	return hinted(err, hint)
}

// run runs the daemon until ctx ends. Then it shuts down in this order: the data path drains, the
// name is released, the page goes.
func (d *daemon) run(ctx context.Context) error {
	d.tell.Send(sd.SdNotifyReady) // the listeners are up, even if etcd and Graphite are not
	g, failed := errgroup.WithContext(ctx)
	last := context.WithoutCancel(ctx)
	holding, release := context.WithCancel(last)
	serving, stopServing := context.WithCancel(last)
	var atStop proxy.Status
	g.Go(func() error {
		<-failed.Done()
		atStop = d.proxy.Status()
		d.tell.Send(sd.SdNotifyStopping + "\nSTATUS=draining")
		return nil
	})
	g.Go(func() error {
		defer release()
		return d.proxy.Run(failed)
	})
	g.Go(func() error {
		defer stopServing()
		return d.holder.Run(holding)
	})
	for _, run := range []func(context.Context){d.pool.Run, d.events.Run, d.attend, d.admin.Run} {
		g.Go(func() error { run(serving); return nil })
	}
	err := g.Wait()
	sayEnd(d.log, atStop, d.proxy.Status())
	return err
}

// oneSignal is how soon a second signal counts as the first: a supervisor, like timeout(1), may
// signal both the process and its group.
const oneSignal = 100 * time.Millisecond

// untilSignal returns a context that ends at the first of the signals; a second one ends the process
// at once.
func untilSignal(ctx context.Context, log *slog.Logger, of ...os.Signal) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, of...)
	go func() {
		var first time.Time
		for s := range signals {
			switch {
			case first.IsZero():
				first = time.Now()
				log.Info("stopping", "signal", s.String())
				cancel()
			case time.Since(first) > oneSignal:
				log.Error("second signal: exiting at once", "signal", s.String())
				os.Exit(exitFailed)
			}
		}
	}()
	return ctx, func() {
		cancel()
		signal.Stop(signals)
		close(signals)
	}
}

// openState opens the state directory of the daemon.
func openState(cfg config.Config) (*state.Dir, error) {
	dir, err := state.Open(cfg.Membership.StateDir)
	switch {
	case errors.Is(err, state.ErrLocked):
		return nil, hinted(err, "stop the other one, or give this one its own membership.state_dir")
	case err != nil:
		return nil, hinted(err, stateHint(cfg.Membership.StateDir, err))
	}
	return dir, nil
}

// stateHint returns how to get a state directory, if dir can't be opened.
func stateHint(dir string, err error) string {
	install := fmt.Sprintf("sudo install -d -m 0700 -o %d %s", os.Getuid(), conf.ShellQuote(dir))
	usual := config.Default().Membership.StateDir
	switch {
	case errors.Is(err, statedir.ErrNotOurs) && !unit.IsOurs():
		return "another user's daemon keeps its state there: give this one its own membership.state_dir; to start the service: systemctl start prefixproxy"
	case unit.IsOurs() && dir != usual:
		return "remove membership.state_dir, since the service has " + usual + "; or allow another one: systemctl edit prefixproxy: [Service] ReadWritePaths=" + dir + " (in /home: ProtectHome=no, too), and: " + install
	case errors.Is(err, statedir.ErrNotOurs), errors.Is(err, statedir.ErrOpenToOthers), errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return "set membership.state_dir to a directory that this user may write, or: " + install
	}
	return "set membership.state_dir to a directory that this user may write"
}

// queueDirs returns where Carbon's queue may be: the second runtime directory that systemd gives us
// (the first is for sockets, which get mounted into containers), /dev/shm, or else the disk.
func queueDirs(stateDir string) []string {
	var dirs []string
	if own, ok := unit.RuntimeDir(); ok {
		dirs = append(dirs, own)
	}
	return append(dirs, "/dev/shm", stateDir)
}

// heapBeside is what the Go heap may hold beside the queue of StatsD (Carbon's is not in the heap).
// Of the 48 MiB that the daemon may take beside the queues, the other half is for what is not in the
// heap: pages of the binary, and buffers for datagrams.
const heapBeside conf.Bytes = 24 << 20

// tune makes the Go runtime modest, as befits a daemon on a host that has better things to do,
// unless the environment says otherwise. One processor is enough: readers hand work to upstreams
// without waking another thread, which would cost more than the work.
func tune(cfg config.Config) {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(1)
	}
	tuneMemory(cfg)
}

// tuneMemory is the part of tune that depends on the configuration.
func tuneMemory(cfg config.Config) {
	if os.Getenv("GOMEMLIMIT") == "" {
		limit := heapBeside + cfg.Proxy.Forward.StatsD.Queue
		if cfg.Proxy.Forward.StatsD.Aggregates() {
			limit = heapBeside + cfg.Proxy.Aggregate.Memory
		}
		debug.SetMemoryLimit(int64(limit))
	}
}
