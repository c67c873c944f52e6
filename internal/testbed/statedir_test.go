package testbed

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A state directory that others may write is refused, with the remedy, and nothing is
// started; with what they have planted there, once it is ours again, a daemon starts,
// and touches nothing elsewhere.
func TestPlantedState(t *testing.T) {
	dir := t.TempDir()
	state, victim := filepath.Join(dir, "state"), writeFile(t, "root's", t.TempDir(), "victim")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(state, 0o777); err != nil {
		t.Fatal(err)
	}
	etcd, sink := embeddedEtcd(t), startSink(t)
	config := strings.ReplaceAll(smallConfig, "stdout:", "carbon:") + "rewrite: {unmatched: drop}\n"
	start := func() *daemon { return startDaemonIn(t, dir, config, "ETCD="+etcd, "CARBON="+sink.Addr) }
	d := start()
	if code := d.ExitCode(t); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	checkError(t, d.process, "others may write it")
	if log := d.Stderr.Text(); !strings.Contains(log, "install -d -m 0700") {
		t.Errorf("no remedy in\n%s", log)
	}

	if err := os.Chmod(state, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, plant := range map[string]func(string) error{
		"claim.json":       func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"claim.json.new":   func(path string) error { return os.Symlink(victim, path) },
		"state.json":       func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"state.json.new":   func(path string) error { return os.Symlink(victim, path) },
		"tenures.json":     func(path string) error { return os.Symlink(victim, path) },
		"tenures.json.new": func(path string) error { return os.Symlink(victim, path) },

		"queue":  func(path string) error { return os.Symlink(victim, path) },
		"spool":  func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"memory": func(path string) error { os.Remove(path); return syscall.Mkfifo(path, 0o600) },

		"lock":                             func(path string) error { os.Remove(path); return os.Symlink(victim, path) },
		"store/state-0":                    func(path string) error { return os.Link(victim, path) },
		"store/state-1":                    func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"store/named-0000000000000000.log": func(path string) error { return os.Symlink(victim, path) },
		"aggregate/base-0000000000000001":  func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"aggregate/lines-0000000000000002": func(path string) error { return os.Symlink(victim, path) },
		"aggregate/base.new":               func(path string) error { return os.Symlink(victim, path) },
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(state, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := plant(filepath.Join(state, name)); err != nil {
			t.Fatal(err)
		}
	}
	d = start()
	d.AwaitName(t, "Denali")
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "root's" {
		t.Errorf("the file that links led to: %q, %v", text, err)
	}
}
