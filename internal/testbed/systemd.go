//go:build linux

package testbed

import (
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// A systemd is a machine within this one, for units and packages: a real systemd as
// process 1 of namespaces of its own, over a copy-on-write view of the root file
// system. What happens in it is gone with it.
type systemd struct {
	t   testing.TB
	pid int // of the systemd, as seen from outside
}

//go:embed systemd.sh
var systemdScript string

// newSystemd starts one and waits until it runs. It has dirs as well, wherever they are
// mounted. It needs root and cgroup v2.
func newSystemd(t testing.TB, dirs ...string) *systemd {
	t.Helper()
	needRoot(t, "a systemd of its own")
	lookPath(t, "systemctl", "systemd")
	lookPath(t, "ip", "iproute2")
	cgroup := newCgroup(t)
	// The cgroup namespace begins where its first process is.
	const join = `echo $$ >"$1/cgroup.procs"; shift; exec unshare --cgroup bash -c "$0" systemd.sh "$@"`
	cmd := exec.Command("unshare", append([]string{"--pid", "--mount", "--net", "--uts", "--ipc", "--fork", "--kill-child", "bash", "-c", join, systemdScript, cgroup}, dirs...)...)
	p := start(t, cmd)
	s := &systemd{t: t}
	eventually(t, "systemd runs", func() error {
		if p.hasEnded() {
			t.Fatal("no systemd can be started here")
		}
		return s.find(cmd.Process.Pid)
	})
	return s
}

// newCgroup makes a cgroup for a test, which goes when all that was in it has.
func newCgroup(t testing.TB) string {
	t.Helper()
	root := "/sys/fs/cgroup"
	if _, err := os.Stat(root + "/unified"); err == nil {
		root += "/unified"
	}
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		t.Skip("no cgroup v2 here")
	}
	dir := filepath.Join(root, fmt.Sprintf("prefixproxy-testbed-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		t.Skipf("no cgroup can be made here: %v", err)
	}
	t.Cleanup(func() {
		eventually(t, "the cgroup is gone", func() error {
			return exec.Command("find", dir, "-depth", "-type", "d", "-exec", "rmdir", "{}", ";").Run()
		})
	})
	return dir
}

// find looks for the systemd that is the child of parent, and asks it how it is.
func (s *systemd) find(parent int) error {
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", parent, parent))
	if err != nil {
		return err
	}
	if s.pid, err = strconv.Atoi(strings.TrimSpace(string(children))); err != nil {
		return err
	}
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", s.pid))
	if err != nil || string(name) != "systemd\n" {
		return fmt.Errorf("process 1 is %q", name)
	}
	state, err := s.command("systemctl", "is-system-running").CombinedOutput()
	if got := strings.TrimSpace(string(state)); got != "running" && got != "degraded" {
		return fmt.Errorf("%q: %w", got, err)
	}
	return nil
}

// inside does something in the machine's network: what it listens on is there.
func (s *systemd) inside(do func() error) error {
	return insideNetwork(fmt.Sprintf("/proc/%d/ns/net", s.pid), do)
}

// command returns a command that runs in the machine, as root.
func (s *systemd) command(args ...string) *exec.Cmd {
	cmd := exec.Command("nsenter", append([]string{"-t", strconv.Itoa(s.pid), "-m", "-u", "-i", "-n", "-p", "-C", "--"}, args...)...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_PAGER="}
	return cmd
}

// try runs a shell script in the machine, and returns what it printed.
func (s *systemd) try(script string) (string, error) {
	out, err := s.command("bash", "-ec", script).CombinedOutput()
	return string(out), err
}

// run is try of what must succeed.
func (s *systemd) run(script string) string {
	s.t.Helper()
	out, err := s.try(script)
	if err != nil {
		s.t.Fatalf("%s\n%v\n%s", script, err, out)
	}
	return out
}

// write writes a file in the machine.
func (s *systemd) write(path, text string) {
	s.t.Helper()
	cmd := s.command("sh", "-c", `mkdir -p "$(dirname "$0")" && cat >"$0"`, path)
	cmd.Stdin = strings.NewReader(text)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("write %s: %v: %s", path, err, out)
	}
}

// copyIn copies a file of this machine.
func (s *systemd) copyIn(from, to string) {
	s.t.Helper()
	file, err := os.ReadFile(from)
	if err != nil {
		s.t.Fatal(err)
	}
	s.write(to, string(file))
}
