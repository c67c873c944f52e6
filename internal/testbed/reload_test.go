package testbed

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// rewriteConfig changes the configuration file of a daemon and sends SIGHUP.
func (d *daemon) rewriteConfig(t testing.TB, old, new string) {
	t.Helper()
	file := filepath.Join(d.Dir, "config.yaml")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), old) {
		t.Fatalf("%q is not in\n%s", old, text)
	}
	writeFile(t, strings.Replace(string(text), old, new, 1), file)
	d.Signal(syscall.SIGHUP)
}

// SIGHUP reloads: a connection goes on, the name stays, and the new configuration
// is in effect. One that is broken, or is another host's, is refused and named.
func TestReload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first, second := startSink(t), startSink(t)
	notify, notices := listenForNotices(t, dir)
	d := startDaemonIn(t, dir, smallConfig, "ETCD="+embeddedEtcd(t), "CARBON="+first.Addr, "OTHER="+second.Addr, notify)
	d.AwaitReady(t)
	conn, err := net.Dial("tcp", d.Address(t, "carbon", carbonListener))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintln(conn, "host.a 1 1700000000")
	first.Await(t, "Denali.a 1 1700000000")

	d.Signal(syscall.SIGHUP)
	d.Stderr.Await(t, "nothing has changed")
	notices.Await(t, "RELOADING=1")
	notices.Await(t, "MONOTONIC_USEC=")

	d.rewriteConfig(t, "tcp://${CARBON}", "tcp://${OTHER}")
	if said := d.Stderr.Await(t, "changed="); !strings.Contains(said, "forward.carbon.to") {
		t.Errorf("got %s, want the key that has changed", said)
	}
	fmt.Fprintln(conn, "host.b 1 1700000000")
	second.Await(t, "Denali.b 1 1700000000")

	d.rewriteConfig(t, "listen:", "lissen:")
	if said := d.Stderr.Await(t, "lissen"); !strings.Contains(said, "level=ERROR") {
		t.Errorf("got %s, want an error", said)
	}
	d.rewriteConfig(t, "lissen:", "listen:")
	d.rewriteConfig(t, "membership:", "membership:\n  pool: other")
	d.Stderr.Await(t, "membership.pool cannot change")
	notices.Await(t, "the last reload was refused")

	d.rewriteConfig(t, "  pool: other", "  pool: default")
	d.rewriteConfig(t, "admin.sock", "moved.sock")
	d.Stderr.Await(t, "changed=admin.listen")
	d.Dir = dir
	moved := newDaemonAt(dir, "moved.sock", d.process)
	status := moved.AwaitReady(t)
	checkBooks(t, status)
	if *status.Name != "Denali" {
		t.Errorf("name %q, want Denali", *status.Name)
	}
	fmt.Fprintln(conn, "host.c 1 1700000000")
	second.Await(t, "Denali.c 1 1700000000")
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

// dev ends with its terminal.
func TestDevHangup(t *testing.T) {
	t.Parallel()
	d := startDev(t, t.TempDir(), "listen: {statsd: [udp://127.0.0.1:0], carbon: [tcp://127.0.0.1:0]}\n")
	d.Stderr.Await(t, "this host is")
	d.Signal(syscall.SIGHUP)
	if code := d.ExitCode(t); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}
