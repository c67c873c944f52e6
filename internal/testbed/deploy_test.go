package testbed

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/prefixproxy/prefixproxy/proxy"
)

// The configuration of the DaemonSet is one that this program takes, with the lines
// for the node's address too, whichever kind that is.
func TestDaemonSet(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/kubernetes/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	withNode := regexp.MustCompile(`(?m)^  (statsd|carbon): \[.*localhost.*\n`).ReplaceAll(text, nil)
	withNode = regexp.MustCompile(`(?m)^  # (statsd|carbon):`).ReplaceAll(withNode, []byte("  $1:"))
	for ip, want := range map[string]string{"192.0.2.7": "udp://192.0.2.7:8125", "fd00::7": "udp://[fd00::7]:8125"} {
		for _, config := range [][]byte{text, withNode} {
			file := writeFile(t, string(config), t.TempDir(), "config.yaml")
			check := start(t, program(t, []string{"NODE_NAME=node-1", "NODE_IP=" + ip}, "check", "--config", file))
			if code := check.ExitCode(t); code != 0 {
				t.Errorf("check ended with %d, want 0:\n%s", code, check.Stderr.Text())
			}
			if got := check.Stdout.Text(); &config[0] == &withNode[0] && !strings.Contains(got, want) {
				t.Errorf("check printed\n%s\nwant %s in it", got, want)
			}
		}
	}
}

// The units are ones that systemd takes.
func TestUnits(t *testing.T) {
	tool := lookPath(t, "systemd-analyze", "systemd")
	units, err := filepath.Glob("../../deploy/systemd/*")
	if err != nil || len(units) == 0 {
		t.Fatalf("units: %v, %v", units, err)
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		// A program that is there: ours is not installed.
		text = []byte(regexp.MustCompile(`(?m)^(Exec[A-Za-z]*=)prefixproxy`).ReplaceAllString(string(text), "$1/bin/true"))
		args = append(args, writeFile(t, string(text), dir, filepath.Base(unit)))
	}
	verify := start(t, exec.Command(tool, args...))
	code := verify.ExitCode(t)
	for _, line := range verify.Stderr.Lines() {
		if code != 0 || strings.Contains(line, dir) {
			t.Errorf("%v: %s", args, line)
		}
	}
}

// The unit takes an invalid configuration, and no crash, for the end.
func TestUnitRestarts(t *testing.T) {
	text, err := os.ReadFile("../../deploy/systemd/prefixproxy.service")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if code, ok := strings.CutPrefix(line, "RestartPreventExitStatus="); ok && code != "78\n" {
			t.Errorf("no restart after exit status %s, want 78 alone", code)
		}
	}
	d := startDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+startSink(t).Addr)
	d.AwaitUp(t)
	d.Signal(syscall.SIGQUIT) // the runtime ends as after a panic
	if code := d.ExitCode(t); code == 0 || code == 1 || code == 78 {
		t.Errorf("a crash ended with %d", code)
	}
	bad := startDaemonIn(t, t.TempDir(), "lissen: {}")
	if code := bad.ExitCode(t); code != 78 {
		t.Errorf("an invalid configuration ended with %d, want 78", code)
	}
}

// The socket unit binds what the default configuration listens on.
func TestSocketUnit(t *testing.T) {
	text, err := os.ReadFile("../../deploy/systemd/prefixproxy.socket")
	if err != nil {
		t.Fatal(err)
	}
	var got, want []string
	for line := range strings.Lines(string(text)) {
		kind, address, _ := strings.Cut(strings.TrimSpace(line), "=")
		if network, ok := map[string]string{"ListenDatagram": "udp", "ListenStream": "tcp"}[kind]; ok {
			got = append(got, network+"://"+address)
		}
	}
	listen := proxy.DefaultConfig().Listen
	for _, a := range slices.Concat(listen.StatsD, listen.Carbon) {
		for _, host := range []string{"127.0.0.1", "::1"} {
			a.Host = host
			want = append(want, a.String())
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the unit binds\n%q\nwant\n%q", got, want)
	}
}
