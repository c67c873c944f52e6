package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/prefixproxy/prefixproxy/internal/unit"
)

type runCmd struct {
	configFlag
}

// Help is shown by run --help.
func (runCmd) Help() string {
	return `SIGTERM or SIGINT: stop reading, let the upstreams take what waits (5 s), release the name, exit 0. A second one exits at once with 1.

SIGHUP: read the configuration file anew, and go on with it. Listeners that stay are not closed. A file with mistakes, or one that changes membership or etcd, is refused as a whole.`
}

// Run is the daemon.
func (c *runCmd) Run(ctx context.Context, ui *ui) error {
	signal.Ignore(syscall.SIGPIPE)     // who reads our log may go: 2>&1 | tee
	hangups := make(chan os.Signal, 1) // of several in a row, one
	signal.Notify(hangups, syscall.SIGHUP)
	ctx, stop := untilSignal(ctx, ui.log, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	sockets, err := unit.Sockets()
	if err != nil {
		return hinted(err, "systemd sets it for its socket units; elsewhere: unset LISTEN_PID LISTEN_FDS LISTEN_FDNAMES")
	}
	cfg, err := c.ProvideConfig()
	if err != nil {
		return err
	}
	ui.log.Info("prefixproxy starts", "version", buildVersion(), "config", c.Config)
	tune(cfg)
	stateDir, err := openState(cfg)
	if err != nil {
		return err
	}
	defer stateDir.Close()
	d, err := newDaemon(cfg, stateDir, ui, sockets, queueDirs(stateDir.Path()))
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.bind(ctx); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.run(ctx) })
	r := reloader{daemon: d, cfg: cfg}
	g.Go(func() error {
		for {
			select {
			case <-hangups:
				r.reload(ctx, c.ProvideConfig)
			case <-ctx.Done():
				return nil
			}
		}
	})
	return g.Wait()
}
