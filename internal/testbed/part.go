package testbed

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// parts are what the test's binary plays in processes of its own, so that killing and stopping
// them is real. A part ends with its stdin. What it is to be is told in JSON.
var parts = map[string]func(spec []byte) error{"receiver": playReceiver, "etcd": playEtcdNode}

// partVariable in the environment makes main play a part: its name, a blank, what it is to be.
const partVariable = "PREFIXPROXY_TESTBED_PART"

// playPart plays a part, and returns the exit code.
func playPart(text string) int {
	name, spec, _ := strings.Cut(text, " ")
	if err := parts[name]([]byte(spec)); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return 0
}

// startPart starts a process that plays a part. The caller kills it. stdout takes what it prints;
// nil: the process keeps it. within starts it somewhere; nil: here.
func startPart(t testing.TB, name string, spec any, stdout io.Writer, within func(start func() error) error) (p *process, stdin io.WriteCloser) {
	t.Helper()
	text, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), partVariable+"="+name+" "+string(text))
	cmd.Stdout = stdout
	if stdin, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	begin := func() (err error) { p, err = launch(cmd); return err }
	if within == nil {
		err = begin()
	} else {
		err = within(begin)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p, stdin
}
