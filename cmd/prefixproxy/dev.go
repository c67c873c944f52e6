package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sync/errgroup"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/state"
	"github.com/prefixproxy/prefixproxy/proxy"
)

type devCmd struct {
	Config    string `short:"c" placeholder:"FILE" help:"A configuration file, if the defaults don't suit. Its etcd section and state_dir are ignored."`
	Aggregate bool   `help:"Count StatsD here, and print the points that Graphite would get: sets forward.statsd.to to [carbon:]."`
	DataDir   string `placeholder:"DIR" help:"Directory for all data; default: a temporary one, removed at the end."`
}

// Help is shown by dev --help.
func (devCmd) Help() string {
	return `Starts its own etcd on a free port, claims a name in it, listens on the default ports, and prints every forwarded line on stdout, unless the configuration file sends lines elsewhere.`
}

// Run is the daemon with an etcd of its own.
func (c *devCmd) Run(ctx context.Context, ui *ui) error {
	ends := []os.Signal{syscall.SIGTERM, syscall.SIGINT}
	if !signal.Ignored(syscall.SIGHUP) { // by nohup(1)
		ends = append(ends, syscall.SIGHUP) // its terminal is gone
	}
	ctx, stop := untilSignal(ctx, ui.log, ends...)
	defer stop()
	signal.Ignore(syscall.SIGPIPE) // a server or a browser that hangs up causes it, too
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ui.out = readOut{ui.out, cancel}
	dir, remove, err := c.dataDir()
	if err != nil {
		return err
	}
	defer remove()
	cfg, err := c.load(dir)
	if err != nil {
		return err
	}
	stateDir, err := openState(cfg)
	if err != nil && c.DataDir != "" {
		return hinted(errors.Unwrap(err), "give --data-dir a directory of its own that this user, and nobody else, may write")
	} else if err != nil {
		return err
	}
	defer stateDir.Close()
	end := func(err error) {
		remove()
		report(ui.err, c.etcdHint(fmt.Errorf("the embedded etcd: %w", err)))
		os.Exit(exitFailed)
	}
	etcd, err := devetcd.StartOr(ctx, end, filepath.Join(dir, "etcd"))
	if err != nil && ctx.Err() != nil {
		return nil
	} else if err != nil {
		return c.etcdHint(err)
	}
	defer etcd.Close()
	cfg.Etcd = config.Etcd{Endpoints: []string{etcd.Endpoint()}}

	// The queue is with the rest: if dev is killed, it leaves nothing elsewhere.
	d, err := newDaemon(cfg, stateDir, ui, nil, []string{stateDir.Path()})
	if err != nil {
		return err
	}
	defer d.client.Close()
	if err := d.bind(ctx); errors.Is(err, syscall.EADDRINUSE) && c.Config == "" {
		return hinted(errors.Unwrap(err), "stop what uses it (sudo ss -lntupx shows it), or give dev other ports: dev --config FILE, with listen: {statsd: [udp://localhost:9125], carbon: [tcp://localhost:9003]} and admin: {listen: localhost:9127} in that file")
	} else if err != nil {
		return err
	}
	file, err := writeConfig(cfg, stateDir)
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.run(ctx) })
	g.Go(func() error {
		c.greet(ctx, ui, d, etcd.Endpoint(), file)
		return nil
	})
	return g.Wait()
}

// readOut is an output that calls gone when its reader has exited, as in dev | head.
type readOut struct {
	io.Writer
	gone func()
}

func (w readOut) Write(b []byte) (int, error) {
	n, err := w.Writer.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		w.gone()
	}
	return n, err
}

// etcdHint adds a remedy to an error that ended our etcd.
func (c *devCmd) etcdHint(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EFBIG) || errors.Is(err, syscall.EDQUOT) {
		return hinted(err, "it needs about 100 MB: use --data-dir DIR, or TMPDIR=DIR, on a disk that has room")
	}
	if strings.Contains(err.Error(), "descriptor") {
		return hinted(err, "ulimit -n 8192")
	}
	if c.DataDir != "" {
		return hinted(err, "if its data is damaged, start afresh: rm -r "+conf.ShellQuote(filepath.Join(c.DataDir, "etcd")))
	}
	return err
}

// dataDir returns the directory for all data, and a function that removes it if it is temporary.
func (c *devCmd) dataDir() (dir string, remove func(), err error) {
	if c.DataDir != "" {
		dir, err = filepath.Abs(c.DataDir)
		return dir, func() {}, err
	}
	if dir, err = os.MkdirTemp("", "prefixproxy-dev-"); err != nil {
		err = hinted(err, "use --data-dir DIR, or TMPDIR=DIR, with an existing directory that this user may write")
	}
	return dir, func() { os.RemoveAll(dir) }, err
}

// load returns the configuration. It makes dev safe to try: it uses nothing that belongs to the
// system, and sends nothing unless the file says where.
func (c *devCmd) load(dir string) (config.Config, error) {
	cfg := config.Default()
	cfg.Etcd.Unused = true
	stdout := []proxy.Upstream{{Address: proxy.Address{Network: "stdout"}}}
	cfg.Proxy.Forward.StatsD.To = stdout
	cfg.Proxy.Forward.Carbon[0].To = stdout
	if c.Aggregate {
		cfg.Proxy.Forward.StatsD.To = []proxy.Upstream{{Address: proxy.Address{Network: "carbon"}}}
		cfg.Proxy.Rewrite.Unmatched = line.PrefixUnmatched
	}
	if c.Config != "" {
		var err error
		if cfg, err = loadConfig(c.Config, cfg); err != nil {
			return config.Config{}, err
		}
	}
	cfg.Membership.StateDir = filepath.Join(dir, "state")
	cfg.Telemetry.StatsD = false
	cfg.Share()
	return cfg, nil
}

// writeConfig writes the effective configuration, for the other commands.
func writeConfig(cfg config.Config, dir *state.Dir) (file string, err error) {
	text, err := cfg.YAML()
	if err != nil {
		return "", err
	}
	const name = "config.yaml"
	return filepath.Join(dir.Path(), name), dir.WriteFile(name, text)
}

// greet waits for a name, and says what has been started and what to type next.
func (c *devCmd) greet(ctx context.Context, ui *ui, d *daemon, endpoint, file string) {
	claim := firstClaim(ctx, d.holder)
	if claim == nil {
		return
	}
	fmt.Fprintf(ui.err, "prefixproxy: this host is now %s; etcd is at %s, its data in %s\n", claim.Name(), endpoint, filepath.Dir(filepath.Dir(file)))
	status := d.proxy.Status()
	if to, ok := tryStatsD(status); ok {
		fmt.Fprintf(ui.err, "prefixproxy: try it:     printf 'host.requests:1|c' | nc -u -w1 %s\n", to)
	}
	fmt.Fprintf(ui.err, "prefixproxy: who is who: %s members --config %s\n", ourselves(), conf.ShellQuote(file))
	if page := d.admin.Addr(); page != nil {
		fmt.Fprintf(ui.err, "prefixproxy: the page:   %s (refused lines, with the reason, are at /badlines)\n", pageURL(page))
	}
}

// firstClaim waits for a claim; it returns nil if ctx ends first.
func firstClaim(ctx context.Context, h *membership.Holder) *membership.Claim {
	for {
		changed := h.Changed()
		if claim, ok := h.Current(); ok {
			return claim
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// tryStatsD returns "host port" of the first UDP listener for StatsD.
func tryStatsD(s proxy.Status) (string, bool) {
	for _, l := range s.Listeners {
		a, err := address.Parse(l.Address)
		if err == nil && l.Protocol == "statsd" && a.Network == "udp" {
			return a.Host + " " + strconv.Itoa(a.Port), true
		}
	}
	return "", false
}

// pageURL returns the URL of the page, or how to fetch it from a unix socket.
func pageURL(a net.Addr) string {
	if a.Network() == "unix" {
		return "curl --unix-socket " + a.String() + " http://localhost/"
	}
	return "http://" + a.String() + "/"
}

// ourselves returns how this program was called.
func ourselves() string {
	if strings.Contains(os.Args[0], "go-build") {
		return "go run ./cmd/prefixproxy"
	}
	return conf.ShellQuote(os.Args[0])
}
