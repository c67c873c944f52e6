package main

import (
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
)

type checkCmd struct {
	configFlag
}

// Help is shown by check --help.
func (checkCmd) Help() string {
	return `All problems are told at once, with their places in the file. Nothing is started and the network is not used.

What is printed can be used as a configuration file itself: all keys, with variables replaced. It holds no secret: a password stays in its file, one within an address is refused, and one in the query of graphite.events is masked.`
}

// Run checks the file and prints what is in effect.
func (c *checkCmd) Run(ui *ui, cfg config.Config) error {
	cfg.Graphite.Events = conf.Mask(cfg.Graphite.Events)
	text, err := cfg.YAML()
	if err != nil {
		return err
	}
	for _, warning := range cfg.Warnings() {
		ui.warnf("%s", warning)
	}
	_, err = ui.out.Write(text)
	return err
}
