package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/aggregate"
	"github.com/prefixproxy/prefixproxy/internal/line"
)

type rewriteCmd struct {
	configFlag
	Name     string `required:"" placeholder:"NAME" help:"The name to hold, one of the list."`
	Protocol string `required:"" enum:"carbon,statsd" placeholder:"PROTOCOL" help:"What the lines are: carbon or statsd."`
	Now      string `placeholder:"TIME" help:"When the lines arrive, as --at of who takes it; default: now."`
}

// Help is shown by rewrite --help.
func (rewriteCmd) Help() string {
	return `Reads as from a connection: a last line without its end is refused. What is refused or dropped goes to stderr, with its line number and the reason. Where StatsD becomes points here (forward.statsd.to: [carbon:]), they are printed at the end, as of one slot. For example:

    printf 'host.cpu 3.4 -1\n' | prefixproxy rewrite --config prefixproxy.yaml --name Denali --protocol carbon`
}

// Run rewrites stdin to stdout.
func (c *rewriteCmd) Run(ui *ui, cfg config) error {
	if !slices.Contains(cfg.Membership.Names, c.Name) {
		return notListed(c.Name, cfg, c.Config)
	}
	f := filter{now: time.Now, in: bufio.NewReaderSize(ui.in, maxInput), out: bufio.NewWriter(ui.out), refused: ui.err}
	if c.Now != "" {
		at, err := parseTime("--now", c.Now, time.Now())
		if err != nil {
			return err
		}
		f.now = func() time.Time { return at }
	}
	protocol := line.StatsD
	if c.Protocol == line.Carbon.String() {
		protocol = line.Carbon
	} else if cfg.Proxy.Forward.StatsD.Aggregates() {
		return c.aggregate(cfg, &f)
	}
	f.rewriter = cfg.Proxy.Rewrite.Rewriter(protocol, c.Name)
	return f.run()
}

// aggregate prints the points that StatsD's lines become, all in one slot.
func (c *rewriteCmd) aggregate(cfg config, f *filter) error {
	at := f.now().Truncate(time.Second)
	rules := cfg.Proxy.Rewrite
	rules.Points = true
	cfg.Proxy.Aggregate.To = rules.To
	sums, err := aggregate.Open(cfg.Proxy.Aggregate, nil, at)
	if err != nil {
		return err
	}
	f.rewriter, f.sums, f.tags = rules.Rewriter(line.StatsD, c.Name), sums, cfg.Proxy.Aggregate.Tags
	points := f.out
	f.out = bufio.NewWriter(io.Discard)
	if err := f.run(); err != nil {
		return err
	}
	sums.SetNamed(true, at)
	sums.Seal(at)
	var series []string
	for more := true; more; {
		more = sums.Take(1)
		series = append(series, strings.ReplaceAll(string(sums.Points(nil)), line.Mark, c.Name))
	}
	slices.Reverse(series) // the last come first
	points.WriteString(strings.Join(series, ""))
	return points.Flush()
}

const (
	maxInput = 64 << 10 // bytes of a line as it comes, with its end; what leaves is bounded by line.MaxLen
	maxShown = 200      // bytes of a refused line that a person gets to see
)

// A filter rewrites lines from in to out.
type filter struct {
	rewriter *line.Rewriter
	now      func() time.Time
	in       *bufio.Reader
	out      *bufio.Writer
	refused  io.Writer
	buf      []byte                // the line that leaves
	sums     *aggregate.Aggregator // nil, or what lines are counted in
	tags     aggregate.Tags        // of sums
	reading  aggregate.Reading     // for sums
}

// run rewrites until in ends. What was read is out before it waits for more, so
// that it can be used behind tail -f.
func (f *filter) run() error {
	for number := 1; ; number++ {
		data, readErr := f.in.ReadSlice('\n')
		if err := f.line(number, data, readErr); err != nil {
			return err
		}
		if readErr == io.EOF || f.in.Buffered() == 0 {
			if err := f.out.Flush(); err != nil {
				return err
			}
		}
		for errors.Is(readErr, bufio.ErrBufferFull) { // skips the rest of the line
			_, readErr = f.in.ReadSlice('\n')
		}
		if readErr == io.EOF {
			return nil
		}
		if readErr != nil {
			return fmt.Errorf("read stdin: %w", readErr)
		}
	}
}

// line rewrites one line, which data holds with its end, unless readErr says
// why it has none.
func (f *filter) line(number int, data []byte, readErr error) error {
	ln, rest, ended := line.Cut(data)
	switch {
	case ended:
		out, result := f.rewriter.Append(f.buf[:0], ln, f.now().Unix())
		f.buf = out
		reason := result.Reason()
		if f.sums != nil && result.Appended() {
			reason = f.count(out)
		}
		if reason != "" {
			f.refuse(number, reason, ln)
		}
		_, err := f.out.Write(out)
		return err
	case errors.Is(readErr, bufio.ErrBufferFull):
		f.refuse(number, line.TooLong.Reason(), rest)
	case len(rest) > 0:
		f.refuse(number, "unterminated", rest)
	}
	return nil
}

// count counts a line in sums, and returns why it isn't.
func (f *filter) count(ln []byte) string {
	if why := f.reading.Line(ln, f.tags); why != aggregate.Counted {
		return why.String()
	}
	if f.sums.Add(&f.reading) == 0 {
		return "series_full"
	}
	return ""
}

// refuse tells about a line that does not leave.
func (f *filter) refuse(number int, reason string, ln []byte) {
	fmt.Fprintf(f.refused, "line %d: %s: %q\n", number, reason, ln[:min(len(ln), maxShown)])
}
