package testbed

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/prefixproxy/prefixproxy/proxy"
)

// The configuration in the DaemonSet is one that this program takes.
func TestDaemonSet(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../deploy/kubernetes/daemonset.yaml")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(file, []byte(configMap(t, string(text))), 0o600); err != nil {
		t.Fatal(err)
	}
	check := Start(t, Program(t, []string{"NODE_NAME=node-1", "NODE_IP=192.0.2.7"}, "check", "--config", file))
	if code := check.ExitCode(t); code != 0 {
		t.Errorf("check ended with %d, want 0:\n%s", code, check.Stderr.Text())
	}
	if got := check.Stdout.Text(); !strings.Contains(got, "udp://192.0.2.7:8125") {
		t.Errorf("check printed\n%s\nwant the node's address in it", got)
	}
}

// configMap returns config.yaml of the ConfigMap among the documents of text.
func configMap(t testing.TB, text string) string {
	t.Helper()
	for document := range strings.SplitSeq(text, "\n---\n") {
		var object struct {
			Kind string
			Data map[string]string
		}
		if err := yaml.Unmarshal([]byte(document), &object); err != nil {
			t.Fatal(err)
		}
		if object.Kind == "ConfigMap" {
			return object.Data["config.yaml"]
		}
	}
	t.Fatal("no ConfigMap")
	return ""
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
		text = []byte(strings.ReplaceAll(string(text), "/usr/local/bin/prefixproxy", "/bin/true"))
		args = append(args, filepath.Join(dir, filepath.Base(unit)))
		if err := os.WriteFile(args[len(args)-1], text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verify := Start(t, exec.Command(tool, args...))
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
	d := StartDaemon(t, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+StartSink(t).Addr)
	d.AwaitUp(t)
	d.Signal(syscall.SIGQUIT) // the runtime ends as after a panic
	if code := d.ExitCode(t); code == 0 || code == 1 || code == 78 {
		t.Errorf("a crash ended with %d", code)
	}
	bad := StartDaemonIn(t, t.TempDir(), "lissen: {}")
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
