package testbed

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

func init() { parts["parent"] = playParent }

// playParent starts a program, says which, and waits to be killed.
func playParent([]byte) error {
	p, err := launch(exec.Command("sleep", "600"))
	if err == nil {
		fmt.Println(p.cmd.Process.Pid)
		_, err = io.Copy(io.Discard, os.Stdin)
	}
	return err
}

// A daemon of a test that was killed would send to the receivers of the next.
func TestProgramsEndWithUs(t *testing.T) {
	p, stdin := startPart(t, "parent", nil, nil, nil)
	defer stdin.Close()
	eventually(t, "a program", func() error {
		if !strings.HasSuffix(p.Stdout.Text(), "\n") {
			return fmt.Errorf("%q", p.Stdout.Text())
		}
		return nil
	})
	p.Kill()
	stat := fmt.Sprintf("/proc/%s/stat", strings.TrimSpace(p.Stdout.Text()))
	eventually(t, "its end", func() error {
		text, _ := os.ReadFile(stat)
		if s := string(text); strings.Contains(s, "(sleep)") && !strings.Contains(s, "(sleep) Z") {
			return fmt.Errorf("it runs: %s", s)
		}
		return nil
	})
}
