package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completeCmd lists the completions of the last of some words, each with a tab and its description.
// The scripts for shells (deploy/completions) call it.
type completeCmd struct {
	Words []string `arg:"" passthrough:"" help:"The words after prefixproxy."`
}

// Run lists commands, the flags of the command that is there, or the values of a flag; nothing
// if any file or word will do.
func (c *completeCmd) Run(ui *ui, app *kong.Kong) error {
	word, before := c.Words[len(c.Words)-1], c.Words[:len(c.Words)-1]
	command, last := app.Model.Node, ""
	for _, w := range before {
		last = w
		if i := slices.IndexFunc(app.Model.Children, func(n *kong.Node) bool { return n.Name == w }); i >= 0 {
			command = app.Model.Children[i]
		}
	}
	var commands, flags []string
	for _, n := range command.Children {
		if !n.Hidden {
			commands = append(commands, n.Name+"\t"+n.Help)
		}
	}
	for _, f := range slices.Concat(command.AllFlags(true)...) {
		if !f.IsBool() && isNamed(f, last) {
			return list(ui, word, f.EnumSlice())
		}
		flags = append(flags, "--"+f.Name+"\t"+f.Help)
	}
	if commands != nil && !strings.HasPrefix(word, "-") {
		return list(ui, word, commands)
	}
	return list(ui, word, flags)
}

// list prints the words in all that begin with word.
func list(ui *ui, word string, all []string) error {
	all = slices.DeleteFunc(all, func(s string) bool { return s == "" || !strings.HasPrefix(s, word) })
	_, err := fmt.Fprint(ui.out, strings.Join(append(all, ""), "\n"))
	return err
}
