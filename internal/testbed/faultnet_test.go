//go:build linux

package testbed

import (
	"os/exec"
	"syscall"
	"testing"
)

// A program that ends with its parent outlives the test's visits to other networks: the
// kernel takes the thread that started it for the parent.
func TestVisitsEndNoProgram(t *testing.T) {
	away := newFaraway(t)
	cmd := exec.Command("sleep", "600")
	p := start(t, cmd)
	for range 100 {
		if err := away.inside(func() error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	p.Signal(syscall.SIGTERM)
	<-p.Ended()
	if by := cmd.ProcessState.Sys().(syscall.WaitStatus).Signal(); by != syscall.SIGTERM {
		t.Errorf("%v ended it before", by)
	}
}
