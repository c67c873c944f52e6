package testbed

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A process is a program that a test started.
type process struct {
	Stdout, Stderr *output

	cmd   *exec.Cmd
	ended chan struct{} // closed when the process has, and its output is read
}

// start starts cmd. At the end of the test it is killed, if it has not ended;
// where the test has failed, what it said is logged.
func start(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p, err := launch(cmd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill()
		if out, err := p.Stdout.tailText(), p.Stderr.tailText(); t.Failed() && out+err != "" {
			t.Logf("%v\nstdout:\n%s\nstderr:\n%s", cmd.Args, out, err)
		}
	})
	return p
}

// launch starts cmd. The caller kills it, or it ends with us. What it prints is kept, unless cmd has a place for it.
func launch(cmd *exec.Cmd) (*process, error) {
	p := &process{Stdout: newOutput(), Stderr: newOutput(), cmd: cmd, ended: make(chan struct{})}
	if cmd.Stderr = p.Stderr; cmd.Stdout == nil {
		cmd.Stdout = p.Stdout
	}
	endsWithUs(cmd)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		cmd.Wait() // ProcessState tells how it ended
		close(p.ended)
	}()
	return p, nil
}

// Ended is closed when the process has ended.
func (p *process) Ended() <-chan struct{} { return p.ended }

// hasEnded says whether it has.
func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// Signal sends sig. A process that has ended is no error.
func (p *process) Signal(sig os.Signal) { p.cmd.Process.Signal(sig) }

// Kill ends the process at once and waits until it has.
func (p *process) Kill() {
	p.cmd.Process.Kill()
	<-p.ended
}

// ExitCode waits for the end and returns the exit code; -1 after a signal.
func (p *process) ExitCode(t testing.TB) int {
	t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%v has not ended within %v", p.cmd.Args, patience)
		return 0
	}
}

// Stop sends SIGTERM and returns the exit code.
func (p *process) Stop(t testing.TB) int {
	t.Helper()
	p.Signal(syscall.SIGTERM)
	return p.ExitCode(t)
}

// freeze and resume are SIGSTOP and SIGCONT. freeze returns when all threads stand
// still, and the moment at which they do.
func (p *process) freeze() time.Time {
	p.Signal(syscall.SIGSTOP)
	for deadline := time.Now().Add(time.Second); !p.isStopped() && time.Now().Before(deadline); {
	}
	return time.Now()
}

func (p *process) resume() { p.Signal(syscall.SIGCONT) }

// isStopped says whether all threads of a process stand still.
func (p *process) isStopped() bool {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", p.cmd.Process.Pid))
	for _, file := range threads {
		text, err := os.ReadFile(file)
		_, state, _ := strings.Cut(string(text), ") ")
		if err == nil && !strings.HasPrefix(state, "T") {
			return false
		}
	}
	return true
}
