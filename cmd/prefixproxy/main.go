// Prefixproxy gives this host a short recycled name and forwards the metrics of
// its applications under it. See the README for what it does and how to run it.
//
// main.go, ui.go, log.go and config.go are the frame. run and dev share daemon.go, reload.go and
// attend.go; other commands share attime.go and tenures.go. Each remaining file is a command.
package main

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/coreos/go-systemd/v22/journal"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// commandLine is what kong parses: the commands, in the order of the help.
type commandLine struct {
	Dev      devCmd      `cmd:"" help:"Try it: runs its own etcd and prints every line that it forwards."`
	Run      runCmd      `cmd:"" help:"Run the daemon."`
	Check    checkCmd    `cmd:"" help:"Check a configuration file and print the effective configuration."`
	Rewrite  rewriteCmd  `cmd:"" help:"Rewrite lines from stdin to stdout, as the daemon would."`
	Members  membersCmd  `cmd:"" help:"List the names in use, and the hosts that hold them."`
	Who      whoCmd      `cmd:"" help:"Show who holds a name, or who held it at a given time."`
	History  historyCmd  `cmd:"" help:"Show which names a host held, and when."`
	Target   targetCmd   `cmd:"" help:"Print a Graphite target that follows a host through its names."`
	Release  releaseCmd  `cmd:"" help:"Ask the holder of a name to let go of it."`
	Reload   reloadCmd   `cmd:"" hidden:"" help:"Reload the service's configuration and report the result: the unit's ExecReload."`
	Complete completeCmd `cmd:"" hidden:"" help:"List what may come next on the command line: for shell completion."`
	Version  versionCmd  `cmd:"" help:"Print the version."`

	logFlags
	ShowVersion kong.VersionFlag `name:"version" help:"Print the version."`
}

// configFlag names the configuration file of a command that needs one.
type configFlag struct {
	Config string `short:"c" default:"/etc/prefixproxy/config.yaml" env:"PREFIXPROXY_CONFIG" placeholder:"FILE" help:"The configuration file; default: ${default}."`
}

// description is the top of the help.
const description = `Claims a short recycled name for this host in etcd, and forwards StatsD and
Carbon lines under it: host.cpu becomes Denali.cpu.

To try it:

  prefixproxy dev
  printf 'host.requests:1|c' | nc -u -w1 127.0.0.1 8125    # in another terminal

To run it:

  prefixproxy check --config prefixproxy.yaml
  prefixproxy run   --config prefixproxy.yaml`

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run executes the command that args give and returns the exit code.
func run(args []string, in io.Reader, out, err io.Writer) int {
	failure := execute(args, &ui{in: in, out: out, err: err})
	if failure != nil {
		var text bytes.Buffer
		report(&text, failure)
		err.Write(forJournal(err, journal.PriErr, text.Bytes()))
	}
	return exitCode(failure)
}

func execute(args []string, ui *ui) error {
	var line commandLine
	parser, err := kong.New(&line,
		kong.Name("prefixproxy"),
		kong.Description(description),
		kong.Vars{"version": buildLine()},
		kong.Writers(ui.out, ui.err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoAppDescFormat: true, FlagsLast: true, WrapUpperBound: 90}),
	)
	if err != nil {
		return err
	}
	command, err := parser.Parse(asMeant(args, parser.Model.Children))
	if unwritten, ok := errors.AsType[*fs.PathError](err); ok { // the help
		return unwritten
	}
	if err != nil {
		text := noValue.ReplaceAllString(err.Error(), "its value is missing")
		return usageError(errors.New(strings.Replace(text, `,"" but`, " but", 1)), usageHint(err))
	}
	usual := slog.LevelInfo
	if command.Selected().Name == "dev" {
		usual = slog.LevelWarn // its greeting says the rest
	}
	ui.log = line.logger(ui.err, usual)
	command.BindTo(context.Background(), (*context.Context)(nil))
	return command.Run(ui)
}

// asMeant returns args in the form that kong accepts: flags may precede the command, and help
// is a command, too.
func asMeant(args []string, commands []*kong.Node) []string {
	args = slices.Clone(args)
	isCommand := func(arg string) bool {
		return slices.ContainsFunc(commands, func(c *kong.Node) bool { return c.Name == arg })
	}
	isOfCommand := func(arg string) bool {
		return slices.ContainsFunc(commands, func(c *kong.Node) bool {
			return slices.ContainsFunc(c.Flags, func(f *kong.Flag) bool { return isNamed(f, arg) })
		})
	}
	switch i := slices.IndexFunc(args, isCommand); {
	case len(args) > 0 && args[0] == "help":
		return append(args[1:], "--help")
	case i < 0 && len(args) > 0 && isOfCommand(args[0]):
		return nil // a command is missing
	case i > 0 && strings.HasPrefix(args[0], "-"):
		args = slices.Concat(args[i:i+1], args[:i], args[i+1:])
	}
	return args
}

// isNamed says whether arg is the flag f, with or without its value.
func isNamed(f *kong.Flag, arg string) bool {
	name, _, _ := strings.Cut(arg, "=")
	return name == "--"+f.Name || name == "-"+string(f.Short)
}

// noValue matches what kong says when a flag is the last word, or another flag follows it.
var noValue = regexp.MustCompile(`expected \w+ value but got ("EOL" .*|"-.*)`)

// usageHint returns the remedy in err or else the help to ask for: that of the command, if err
// knows it.
func usageHint(err error) string {
	if known, ok := errors.AsType[failure](err); ok {
		return known.hint
	}
	if bad, ok := errors.AsType[*kong.ParseError](err); ok && bad.Context.Selected() != nil {
		command := "prefixproxy " + bad.Context.Selected().Name
		if file, extra := strings.CutPrefix(err.Error(), "unexpected argument "); extra && strings.HasSuffix(file, "ml") { // .yaml, .yml
			return command + " --config " + conf.ShellQuote(file)
		}
		return command + " --help"
	}
	return "prefixproxy --help"
}
