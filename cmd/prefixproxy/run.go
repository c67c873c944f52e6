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
	return `SIGTERM or SIGINT: stop reading, send what is queued (for up to 5 s), spool the remaining Carbon lines, release the name, and exit with 0. A second one exits at once, with 1.

SIGHUP: reload the configuration file. Listeners that stay are not closed. A file with mistakes, or with changes under membership or etcd, is refused as a whole.`
}

// Run is the daemon.
func (c *runCmd) Run(ctx context.Context, ui *ui) error {
	signal.Ignore(syscall.SIGPIPE)     // the reader of our log may exit: 2>&1 | tee
	hangups := make(chan os.Signal, 1) // several in a row count as one
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
	defer d.client.Close()
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
