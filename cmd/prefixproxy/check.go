package main

import (
	"fmt"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
)

type checkCmd struct {
	configFlag
}

// Help is shown by check --help.
func (checkCmd) Help() string {
	return `All problems are reported at once, each with its place in the file. Nothing is started, and the network is not used.

The output is itself a configuration file, with all keys and with variables replaced. It contains no secrets: the password stays in its file, passwords within addresses are refused, and those in the query of graphite.events are masked.`
}

// Run checks the file and prints the effective configuration.
func (c *checkCmd) Run(ui *ui, cfg config.Config) error {
	cfg.Graphite.Events = conf.Mask(cfg.Graphite.Events)
	text, err := cfg.YAML()
	if err != nil {
		return err
	}
	for _, warning := range cfg.Warnings() {
		fmt.Fprintln(ui.err, "prefixproxy: warning:", conf.Visible(warning))
	}
	_, err = ui.out.Write(text)
	return err
}
