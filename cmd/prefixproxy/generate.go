package main

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// generateCmd writes what a package installs beside the program.
type generateCmd struct {
	Kind string `arg:"" enum:"man,bash,zsh,fish" help:"man, or a shell: its completions."`
}

// Run writes it to stdout.
func (c *generateCmd) Run(ui *ui, app *kong.Kong) error {
	write := map[string]func(io.Writer, *kong.Application){"man": writeMan, "bash": writeBash, "zsh": writeZsh, "fish": writeFish}
	var text bytes.Buffer
	write[c.Kind](&text, app.Model)
	_, err := text.WriteTo(ui.out)
	return err
}

// commandsOf returns the commands that the help shows.
func commandsOf(app *kong.Application) []*kong.Node {
	return slices.DeleteFunc(slices.Clone(app.Children), func(n *kong.Node) bool { return n.Hidden })
}

// flagsOf returns the flags of a command, its own before those that all have.
func flagsOf(n *kong.Node) []*kong.Flag {
	var flags []*kong.Flag
	for _, group := range n.AllFlags(true) {
		flags = append(group, flags...)
	}
	return slices.DeleteFunc(flags, func(f *kong.Flag) bool { return f.Name == "version" })
}

// usageOf is a flag in the manual page, with what stands for its value.
func usageOf(f *kong.Flag) string {
	if f.IsBool() {
		return roff("--" + f.Name)
	}
	return roff("--" + f.Name + " " + f.FormatPlaceHolder())
}

// writeMan writes prefixproxy(1).
func writeMan(w io.Writer, app *kong.Application) {
	fmt.Fprintf(w, ".TH PREFIXPROXY 1 \"\" \"prefixproxy %s\" \"User Commands\"\n", buildVersion())
	fmt.Fprint(w, ".SH NAME\nprefixproxy \\- short, recycled host names for StatsD and Graphite\n.SH SYNOPSIS\n")
	for _, c := range commandsOf(app) {
		fmt.Fprintf(w, ".B prefixproxy %s\n", c.Name)
		for _, f := range c.Flags {
			fmt.Fprintf(w, "[%s]\n", usageOf(f))
		}
		for _, p := range c.Positional {
			fmt.Fprintf(w, ".I %s\n", strings.ToUpper(p.Name))
		}
		fmt.Fprint(w, ".br\n")
	}
	about, examples, _ := strings.Cut(description, "\n\n")
	fmt.Fprintf(w, ".SH DESCRIPTION\n%s\n.PP\n.nf\n%s\n.fi\n.SH COMMANDS\n", roff(about), roff(examples))
	for _, c := range commandsOf(app) {
		fmt.Fprintf(w, ".SS %s\n%s\n", c.Name, roff(c.Help))
		for paragraph := range strings.SplitSeq(c.Detail, "\n\n") {
			fmt.Fprintf(w, ".PP\n%s\n", roff(strings.TrimSpace(paragraph)))
		}
		for _, f := range c.Flags {
			fmt.Fprintf(w, ".TP\n.B %s\n%s\n", usageOf(f), roff(f.Help))
		}
	}
	fmt.Fprint(w, ".SH OPTIONS OF ALL COMMANDS\n")
	for _, f := range app.Flags {
		fmt.Fprintf(w, ".TP\n.B %s\n%s\n", usageOf(f), roff(f.Help))
	}
	fmt.Fprint(w, roff(`.SH EXIT STATUS
0: done. 1: failed. 2: the command line is wrong. 78: the configuration is invalid, and nothing was started.
.SH ENVIRONMENT
PREFIXPROXY_CONFIG names the configuration file where --config is not given.
.SH FILES
/etc/prefixproxy/config.yaml: the configuration.
.br
/var/lib/prefixproxy: what survives a restart: the last name, our own tenures, and Carbon lines that wait.
`))
}

// roff escapes text for troff, whose requests begin a line with a dot.
func roff(text string) string {
	text = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(text)
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		isRequest := strings.HasPrefix(line, ".SH ") || line == ".br"
		if !isRequest && (strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'")) {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}

// A completion is what the shells are told of the value of a flag.
type completion struct{ bash, zsh, fish string }

func completionOf(f *kong.Flag) completion {
	words := strings.Join(f.EnumSlice(), " ")
	switch {
	case f.IsBool():
		return completion{}
	case f.Name == "config":
		return completion{"-f", ":file:_files", " -r -F"}
	case f.Name == "data-dir":
		return completion{"-d", ":directory:_directories", " -r -F"}
	case f.Enum != "":
		return completion{fmt.Sprintf("-W %q", words), ":value:(" + words + ")", " -x -a " + quoteShell(words)}
	}
	return completion{"", ":" + strings.ToLower(f.FormatPlaceHolder()) + ":", " -x"}
}

// writeBash writes the completions for bash.
func writeBash(w io.Writer, app *kong.Application) {
	names, flags, values := []string{"--help", "--version"}, "", map[string]string{}
	for _, c := range commandsOf(app) {
		names = append(names, c.Name)
		flags += "\t" + c.Name + ") flags='"
		for _, f := range flagsOf(c) {
			flags += " --" + f.Name
			if value := completionOf(f).bash; value != "" {
				values[f.Name] = value
			}
		}
		flags += "' ;;\n"
	}
	fmt.Fprint(w, "_prefixproxy() {\n\tlocal word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} flags\n\tcase $before in\n")
	for _, name := range slices.Sorted(maps.Keys(values)) {
		fmt.Fprintf(w, "\t--%s) COMPREPLY=($(compgen %s -- \"$word\")); return ;;\n", name, values[name])
	}
	fmt.Fprintf(w, "\tesac\n\tcase ${COMP_WORDS[1]} in\n%s\tesac\n", flags)
	fmt.Fprintf(w, "\t((COMP_CWORD > 1)) || flags=%q\n", strings.Join(names, " "))
	fmt.Fprint(w, "\tCOMPREPLY=($(compgen -W \"$flags\" -- \"$word\"))\n}\ncomplete -F _prefixproxy prefixproxy\n")
}

// writeZsh writes the completions for zsh.
func writeZsh(w io.Writer, app *kong.Application) {
	fmt.Fprint(w, "#compdef prefixproxy\n\n_prefixproxy() {\n\tlocal -a commands\n\tcommands=(\n")
	for _, c := range commandsOf(app) {
		fmt.Fprintf(w, "\t\t%s\n", quoteShell(c.Name+":"+c.Help))
	}
	fmt.Fprint(w, "\t)\n\tif ((CURRENT == 2)); then\n\t\t_describe command commands\n\t\treturn\n\tfi\n\tcase $words[2] in\n")
	for _, c := range commandsOf(app) {
		fmt.Fprintf(w, "\t%s) _arguments", c.Name)
		for _, f := range flagsOf(c) {
			fmt.Fprintf(w, " \\\n\t\t%s", quoteShell("--"+f.Name+"["+noColons.Replace(f.Help)+"]"+completionOf(f).zsh))
		}
		fmt.Fprint(w, " ;;\n")
	}
	fmt.Fprint(w, "\tesac\n}\n\n_prefixproxy \"$@\"\n")
}

// noColons takes from a text what means something to zsh.
var noColons = strings.NewReplacer("[", "(", "]", ")", ":", ";")

// writeFish writes the completions for fish.
func writeFish(w io.Writer, app *kong.Application) {
	fmt.Fprintln(w, "complete -c prefixproxy -f")
	for _, c := range commandsOf(app) {
		fmt.Fprintf(w, "complete -c prefixproxy -n __fish_use_subcommand -a %s -d %s\n", c.Name, quoteShell(c.Help))
		for _, f := range flagsOf(c) {
			fmt.Fprintf(w, "complete -c prefixproxy -n '__fish_seen_subcommand_from %s' -l %s%s -d %s\n", c.Name, f.Name, completionOf(f).fish, quoteShell(f.Help))
		}
	}
}
