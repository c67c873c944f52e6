//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"time"

	"golang.org/x/sys/unix"
)

// A channel carries JSON values between two processes.
type channel struct {
	in  *json.Decoder
	out *json.Encoder
}

func newChannel(r io.Reader, w io.Writer) *channel {
	return &channel{in: json.NewDecoder(r), out: json.NewEncoder(w)}
}

func (c *channel) tell(v any) error { return c.out.Encode(v) }
func (c *channel) hear(v any) error { return c.in.Decode(v) }

// act is what a child process does: it plays a part until it is over, or until
// the parent hangs up.
func act(part, spec string) error {
	parent := newChannel(os.Stdin, os.Stdout)
	switch part {
	case "generator":
		return play(spec, func(s generatorSpec) error { return generate(s, parent) })
	case "sink":
		return serveSink(parent)
	case "least":
		return play(spec, func(s leastSpec) error { return forwardLeast(s, parent) })
	case "plain":
		return play(spec, func(s leastSpec) error { return forwardPlain(s, parent) })
	}
	return fmt.Errorf("no part is called %q", part)
}

func play[S any](text string, part func(S) error) error {
	var spec S
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("read what to do: %w", err)
	}
	return part(spec)
}

// exitWithParent ends this process when the parent hangs up.
func exitWithParent(parent *channel) {
	var nothing struct{}
	if err := parent.hear(&nothing); errors.Is(err, io.EOF) {
		os.Exit(0)
	}
}

// A child is a process that this one started.
type child struct {
	*channel // to a part that this program plays itself; nil for another program
	cmd      *exec.Cmd
	stdin    io.Closer // hangs up on a part; nil for another program
}

// startPart starts this program again to play a part.
func startPart(ctx context.Context, part string, spec any) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "part", part, string(text))
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{channel: newChannel(stdout, stdin), cmd: cmd, stdin: stdin}, nil
}

// startProgram starts another program. What it says is lost, unless cmd has a
// place for it.
func startProgram(cmd *exec.Cmd) (*child, error) {
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &child{cmd: cmd}, nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// stop asks the process to end, and waits until it has.
func (c *child) stop() {
	if c.stdin != nil {
		c.stdin.Close()
	} else {
		c.cmd.Process.Signal(unix.SIGTERM)
	}
	kill := time.AfterFunc(10*time.Second, func() { c.cmd.Process.Kill() })
	defer kill.Stop()
	c.cmd.Wait() // how it ended says nothing: we ended it
}
