package main

import "context"

type runCmd struct {
	Config string `required:"" placeholder:"FILE" help:"The configuration file."`
}

// Help is shown by run --help.
func (runCmd) Help() string {
	return `SIGTERM or SIGINT: stop reading, let the upstreams take what waits (5 s), release the name, exit 0. A second one exits at once with 1.`
}

// Run is the daemon.
func (c *runCmd) Run(ctx context.Context, ui *ui) error {
	cfg, err := loadConfig(c.Config, defaultConfig())
	if err != nil {
		return err
	}
	tune(cfg)
	ctx, stop := untilSignal(ctx, ui.log)
	defer stop()
	state, err := openState(cfg)
	if err != nil {
		return err
	}
	defer state.Close()
	d, err := newDaemon(cfg, state, ui)
	if err != nil {
		return err
	}
	defer d.close()
	if err := d.bind(); err != nil {
		return err
	}
	return d.run(ctx)
}
