package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/config"
	"github.com/prefixproxy/prefixproxy/internal/line"
)

type rewriteCmd struct {
	configFlag
	Name     string `required:"" placeholder:"NAME" help:"The name to use, from the list."`
	Protocol string `required:"" enum:"carbon,statsd" placeholder:"PROTOCOL" help:"The protocol of the lines: carbon or statsd."`
	Now      moment `placeholder:"TIME" help:"When the lines arrive, written as for who --at; default: now."`
}

// Help is shown by rewrite --help.
func (rewriteCmd) Help() string {
	return `Reads stdin like a connection: a last line without a newline is refused. Lines that are refused or dropped go to stderr, with line number and reason. If StatsD is counted here (forward.statsd.to: [carbon:]), the points are printed at the end, all in one slot. For example:

    printf 'host.cpu 3.4 -1\n' | prefixproxy rewrite --config prefixproxy.yaml --name Denali --protocol carbon`
}

// Run rewrites stdin to stdout.
func (c *rewriteCmd) Run(ui *ui, cfg config.Config) error {
	if !slices.Contains(cfg.Membership.Names, c.Name) {
		return notListed(c.Name, cfg, c.Config)
	}
	f := filter{now: time.Now, in: bufio.NewReaderSize(ui.in, maxInput), out: bufio.NewWriter(ui.out), refused: ui.err}
	if !c.Now.IsZero() {
		f.now = func() time.Time { return c.Now.Time }
	}
	rules, protocol := cfg.Proxy.Rewrite, line.Carbon
	if c.Protocol == line.StatsD.String() {
		protocol = line.StatsD
		rules.Points = cfg.Proxy.Forward.StatsD.Aggregates()
	}
	f.rewriter = rules.Rewriter(protocol, c.Name)
	if rules.Points {
		return f.aggregate(cfg, c.Name)
	}
	return f.run()
}

const (
	maxInput = 64 << 10 // bytes of a line on stdin, with its end; line.MaxLen bounds what leaves
	maxShown = 200      // bytes of a refused line that are printed
)

// A filter rewrites lines from in to out.
type filter struct {
	rewriter *line.Rewriter
	now      func() time.Time
	in       *bufio.Reader
	out      *bufio.Writer
	refused  io.Writer
	buf      []byte                // the rewritten line
	sums     *aggregate.Aggregator // counts the lines; nil if they are printed
	tags     aggregate.Tags        // for sums
	reading  aggregate.Reading     // for sums
}

// aggregate prints the points that the StatsD lines become, all in one slot.
func (f *filter) aggregate(cfg config.Config, name string) (err error) {
	at := f.now().Truncate(time.Second)
	cfg.Proxy.Aggregate.To, f.tags = cfg.Proxy.Rewrite.To, cfg.Proxy.Aggregate.Tags
	if f.sums, err = aggregate.Open(cfg.Proxy.Aggregate, nil, at); err != nil {
		return err
	}
	if err := f.run(); err != nil {
		return err
	}
	f.sums.SetNamed(true, at)
	f.sums.Seal(at)
	var series []string
	for more := true; more; {
		more = f.sums.Take(1)
		series = append(series, strings.ReplaceAll(string(f.sums.Points(nil)), line.Mark, name))
	}
	slices.Reverse(series) // Take begins with the last
	f.out.WriteString(strings.Join(series, ""))
	return f.out.Flush()
}

// run rewrites until in ends. It flushes before it waits for more input, so that it can be used
// behind tail -f.
func (f *filter) run() error {
	for number := 1; ; number++ {
		data, readErr := f.in.ReadSlice('\n')
		if readErr == bufio.ErrBufferFull {
			f.refuse(number, line.TooLong.Reason(), data)
			for data = nil; readErr == bufio.ErrBufferFull; { // skip the rest
				_, readErr = f.in.ReadSlice('\n')
			}
		}
		if readErr != nil && readErr != io.EOF {
			return fmt.Errorf("read stdin: %w", readErr)
		}
		switch ln, rest, ended := line.Cut(data); {
		case ended:
			f.line(number, ln)
		case len(rest) > 0:
			f.refuse(number, "unterminated", rest)
		}
		if readErr == io.EOF || f.in.Buffered() == 0 {
			if err := f.out.Flush(); err != nil || readErr == io.EOF {
				return err
			}
		}
	}
}

// line rewrites or counts one line.
func (f *filter) line(number int, ln []byte) {
	out, result := f.rewriter.Append(f.buf[:0], ln, f.now().Unix())
	f.buf = out
	reason := result.Reason()
	switch {
	case f.sums == nil:
		f.out.Write(out) // Flush returns the error
	case result.Appended():
		reason = f.count(out)
	}
	if reason != "" {
		f.refuse(number, reason, ln)
	}
}

// count counts a line in sums, and returns the reason if it can't; otherwise "".
func (f *filter) count(ln []byte) string {
	if why := f.reading.Line(ln, f.tags); !why.Appended() {
		return why.Reason()
	}
	if f.sums.Add(&f.reading) == 0 {
		return "series_full"
	}
	return ""
}

// refuse reports a line that is not forwarded.
func (f *filter) refuse(number int, reason string, ln []byte) {
	fmt.Fprintf(f.refused, "line %d: %s: %q\n", number, reason, ln[:min(len(ln), maxShown)])
}
