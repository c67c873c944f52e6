package testbed

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

// A Process is a program that a test started.
type Process struct {
	Stdout, Stderr *Output

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has, and its output is read
}

// Start starts cmd. At the end of the test it is killed, if it has not ended;
// where the test has failed, what it said is logged.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Stdout: NewOutput(), Stderr: NewOutput(), cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		cmd.Wait() // ProcessState tells how it ended
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.Kill()
		if out, err := p.Stdout.tailText(), p.Stderr.tailText(); t.Failed() && out+err != "" {
			t.Logf("%v\nstdout:\n%s\nstderr:\n%s", cmd.Args, out, err)
		}
	})
	return p
}

// Ended is closed when the process has ended.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Signal sends sig. A process that has ended is no error.
func (p *Process) Signal(sig os.Signal) { p.cmd.Process.Signal(sig) }

// Kill ends the process at once and waits until it has.
func (p *Process) Kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// ExitCode waits for the end and returns the exit code; -1 after a signal.
func (p *Process) ExitCode(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(Patience):
		t.Fatalf("%v has not ended within %v", p.cmd.Args, Patience)
		return 0
	}
}

// Stop sends SIGTERM and returns the exit code.
func (p *Process) Stop(t testing.TB) int {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.ExitCode(t)
}
