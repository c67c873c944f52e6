//go:build linux

package testbed

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The Debian package, in a machine with a real systemd: built and installed as the README
// says. PREFIXPROXY_TEST_DEB_NEXT names one of a later version (deploy/debian/build).
func TestPackage(t *testing.T) {
	next := os.Getenv("PREFIXPROXY_TEST_DEB_NEXT")
	if next == "" {
		t.Skip("PREFIXPROXY_TEST_DEB_NEXT names no package")
	}
	m := newPackaged(t)
	for _, step := range []struct {
		name string
		run  func(*packaged, *testing.T)
	}{
		{"README", func(m *packaged, t *testing.T) { m.document(t, "README.md") }},
		{"status", (*packaged).status},
		{"restarts", (*packaged).restarts},
		{"reload", (*packaged).reload},
		{"kill", (*packaged).kill},
		{"watchdog", (*packaged).watchdog},
		{"unread log", (*packaged).unreadLog},
		{"invalid configuration", (*packaged).invalid},
		{"other sockets", (*packaged).otherSockets},
		{"password", (*packaged).password},
		{"unix sockets", (*packaged).unixSockets},
		{"upgrade", func(m *packaged, t *testing.T) { m.upgrade(t, next) }},
		{"OPERATIONS", func(m *packaged, t *testing.T) { m.document(t, "docs/OPERATIONS.md") }},
		{"purge", (*packaged).purge},
	} {
		if !t.Run(step.name, func(t *testing.T) { m.t = t; step.run(m, t) }) {
			t.Fatalf("the journal:\n%s", m.journalTail())
		}
	}
}

// A packaged is a machine with the package, an etcd, a statsd and a Graphite.
type packaged struct {
	*systemd
	root           string // of the repository, there as here
	statsd, carbon *receiver
	sent           int // tags of lines, each used once
}

func newPackaged(t *testing.T) *packaged {
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	m := &packaged{root: root, systemd: newSystemd(t, append(goDirs(t), root)...)}
	m.statsd = startReceiver(t, receiverSpec{Network: "udp", Addr: "127.0.0.2:8125", Buffer: 8 << 20, host: m}, manner{})
	m.carbon = startReceiver(t, receiverSpec{Addr: "127.0.0.2:2003", host: m}, manner{})
	m.run("echo 127.0.0.2 etcd.example.net statsd.example.net graphite.example.net >>/etc/hosts")
	lookPath(t, "etcdctl", "etcd-client")
	m.write("/etc/systemd/system/etcd.service", "[Service]\nExecStart="+lookPath(t, "etcd", "etcd-server")+" --data-dir /tmp/etcd --log-level error --listen-client-urls http://127.0.0.2:2379 --advertise-client-urls http://127.0.0.2:2379\n")
	m.run("systemctl daemon-reload; systemctl start etcd")
	return m
}

// A commandBlock is shell that a document tells its reader to type. One that says
// "background" is typed in a terminal of its own, which is closed when its daemon is not
// needed any more; what is called console (Kubernetes, Docker) is not run.
var commandBlock = regexp.MustCompile("(?m)^```sh( background)?\n((?s:.*?))```$")

// document runs all commands of a document, as they stand there and in their order, as
// root in the repository's root: by the README alone, metrics flow.
func (m *packaged) document(t *testing.T, name string) {
	text, err := os.ReadFile(filepath.Join(m.root, name))
	if err != nil {
		t.Fatal(err)
	}
	blocks := commandBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) < 5 {
		t.Fatalf("only %d blocks of commands in %s", len(blocks), name)
	}
	dev := false
	for _, block := range blocks {
		script := "cd " + m.root + "\n" + goEnvironment(t) + block[2]
		switch {
		case block[1] != "":
			if dev {
				m.run("systemctl stop background")
			}
			m.write("/tmp/background", script)
			m.run("systemd-run --unit=background bash /tmp/background")
			eventually(t, "the daemon in the background", func() error {
				out, err := m.try("curl -sf localhost:8127/readyz || { journalctl -u background | tail -3; false; }")
				if err != nil {
					return errors.New(out)
				}
				return nil
			})
			dev = true
			continue
		case dev && !strings.Contains(block[2], "nc "):
			m.promised(t, string(text))
			m.run("systemctl stop background")
			dev = false
		}
		m.run(script)
	}
	if name == "README.md" {
		m.flows(t)
	}
}

// promised waits for what the README says that its daemons print.
func (m *packaged) promised(t *testing.T, readme string) {
	t.Helper()
	lines := regexp.MustCompile(`(?m)^    (Denali\.[a-z.]+(?::\S+| [0-9.]+))( \d{10})?$`).FindAllStringSubmatch(readme, -1)
	if len(lines) != 4 {
		t.Fatalf("the README promises %q", lines)
	}
	eventually(t, "what the README promises", func() error {
		printed := m.run("journalctl -o cat -u background")
		for _, l := range lines {
			if !strings.Contains(printed, l[1]) {
				return fmt.Errorf("no %q in:\n%s", l[1], printed)
			}
		}
		return nil
	})
}

// goDirs are where the go command and its caches are.
func goDirs(t testing.TB) []string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT", "GOCACHE", "GOMODCACHE").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}

// goEnvironment makes the go command use them, since there is no network.
func goEnvironment(t testing.TB) string {
	t.Helper()
	dirs := goDirs(t)
	return fmt.Sprintf("export PATH=%s/bin:$PATH HOME=/root GOCACHE=%s GOMODCACHE=%s GOPROXY=off GOFLAGS=-buildvcs=false\n", dirs[0], dirs[1], dirs[2])
}

// flows sends a line by each protocol and waits for them.
func (m *packaged) flows(t *testing.T) {
	t.Helper()
	m.sent++
	m.send(t, "udp", "127.0.0.1:8125", fmt.Sprintf("host.flows%d:1|c", m.sent))
	m.send(t, "tcp", "127.0.0.1:2003", fmt.Sprintf("host.flows%d 1 1700000000\n", m.sent))
	m.statsd.Await(t, fmt.Sprintf("Denali.flows%d:1|c", m.sent))
	m.carbon.Await(t, fmt.Sprintf("Denali.flows%d 1 1700000000", m.sent))
}

func (m *packaged) send(t *testing.T, network, addr, text string) {
	t.Helper()
	err := m.inside(func() error {
		conn, err := net.Dial(network, addr)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte(text))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// STATUS is the name, the state and the upstreams; the journal has levels of its own.
func (m *packaged) status(t *testing.T) {
	eventually(t, "the status line", func() error {
		got := m.run("systemctl show -P StatusText prefixproxy")
		for _, want := range []string{"Denali held", "statsd udp://statsd.example.net:8125 up", "carbon tcp://graphite.example.net:2003 up"} {
			if !strings.Contains(got, want) {
				return fmt.Errorf("%q lacks %q", got, want)
			}
		}
		return nil
	})
	lookPath(t, "promtool", "prometheus")
	m.run("curl -s localhost:8127/metrics | promtool check metrics")
	entries := m.journal(t)
	if first := entries[0]; !strings.Contains(first.Message, "version=v") || !strings.Contains(first.Message, "config=/etc/prefixproxy/config.yaml") {
		t.Errorf("the first line is %q", first.Message)
	}
	for _, e := range entries {
		if strings.Contains(e.Message, "time=") || strings.Contains(e.Message, "level=") {
			t.Errorf("the journal has time and level twice: %q", e.Message)
		}
	}
}

// An entry is one of the journal.
type entry struct {
	Message  string          `json:"MESSAGE"`
	Priority string          `json:"PRIORITY"`
	At       json.RawMessage `json:"__MONOTONIC_TIMESTAMP"`
}

// journal returns what our processes have said.
func (m *packaged) journal(t *testing.T) (entries []entry) {
	t.Helper()
	for line := range strings.Lines(m.run("journalctl --sync; journalctl -o json _SYSTEMD_UNIT=prefixproxy.service")) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			continue // a message in bytes
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		t.Fatal("the journal is empty")
	}
	return entries
}

// said waits for a line in the journal that holds text, and returns it.
func (m *packaged) said(t *testing.T, text string) (found entry) {
	t.Helper()
	eventually(t, fmt.Sprintf("%q in the journal", text), func() error {
		for _, e := range m.journal(t) {
			if strings.Contains(e.Message, text) {
				found = e
				return nil
			}
		}
		return errors.New("it isn't there")
	})
	return found
}

func (m *packaged) journalTail() string {
	out, _ := m.try("journalctl --no-pager -n 60; systemctl status --no-pager prefixproxy prefixproxy.socket")
	return out
}

// 8,000 datagrams and 400 connections over two restarts: none is lost.
func (m *packaged) restarts(t *testing.T) {
	m.load(t, "restart", 8000, 400, func(part int) { m.run("systemctl restart prefixproxy") })
	m.said(t, "msg=stopped drained=")
}

// load sends datagrams and connections, does something after each third, and waits for
// all of them.
func (m *packaged) load(t *testing.T, tag string, datagrams, connections int, disturb func(part int)) {
	t.Helper()
	var disturbed []chan struct{}
	err := m.inside(func() error {
		packets, err := net.Dial("udp", "127.0.0.1:8125")
		if err != nil {
			return err
		}
		defer packets.Close()
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for i := range datagrams {
			<-pace.C // as an application would send
			if _, err := fmt.Fprintf(packets, "host.%s.%d:1|c", tag, i); err != nil {
				return err
			}
			if every := datagrams / connections; i%every == 0 {
				conn, err := net.Dial("tcp", "127.0.0.1:2003")
				if err != nil {
					return err
				}
				fmt.Fprintf(conn, "host.%s.%d 1 1700000000\n", tag, i/every)
				conn.Close()
			}
			if third := datagrams / 3; i%third == third/2 && i < 2*third {
				done := make(chan struct{})
				disturbed = append(disturbed, done)
				go func() { defer close(done); disturb(i / third) }()
			}
		}
		return nil
	})
	for _, done := range disturbed {
		<-done
	}
	if err != nil {
		t.Fatal(err)
	}
	awaitAll(t, m.statsd, datagrams, func(i int) string { return fmt.Sprintf("Denali.%s.%d:1|c", tag, i) })
	awaitAll(t, m.carbon, connections, func(i int) string { return fmt.Sprintf("Denali.%s.%d 1 1700000000", tag, i) })
}

// awaitAll waits until a receiver has all lines.
func awaitAll(t *testing.T, r *receiver, n int, line func(i int) string) {
	t.Helper()
	eventually(t, fmt.Sprintf("all %d lines", n), func() error {
		came := map[string]bool{}
		for _, l := range r.Lines() {
			came[l] = true
		}
		lost := 0
		for i := range n {
			if !came[line(i)] {
				lost++
			}
		}
		if lost > 0 {
			return fmt.Errorf("%d are missing", lost)
		}
		return nil
	})
}

const packagedConfig = "/etc/prefixproxy/config.yaml"

// A reload of a good file is taken; one of a broken file, or of one that changes the
// pool, fails, says so, and changes nothing.
func (m *packaged) reload(t *testing.T) {
	m.run("cp " + packagedConfig + " /tmp/good.yaml; echo 'coalesce: 4ms' >>" + packagedConfig + "; systemctl reload prefixproxy")
	m.said(t, "changed=coalesce")
	for why, change := range map[string]string{"unknown key": "echo 'colour: blue'", "cannot change": "echo 'membership: {pool: other}'"} {
		m.run("cp /tmp/good.yaml " + packagedConfig + "; " + change + " >>" + packagedConfig)
		out, err := m.try("systemctl reload prefixproxy")
		if err == nil {
			t.Errorf("the reload of a file with an %s succeeded: %s", why, out)
		}
		if e := m.said(t, why); e.Priority != "3" {
			t.Errorf("priority %s of %q, want 3", e.Priority, e.Message)
		}
		if metrics := m.run("curl -s localhost:8127/metrics"); !strings.Contains(metrics, "\nprefixproxy_reload_successful 0\n") {
			t.Error("prefixproxy_reload_successful is not 0")
		}
		m.flows(t)
	}
	m.run("cp /tmp/good.yaml " + packagedConfig + "; systemctl reload prefixproxy")
	if metrics := m.run("curl -s localhost:8127/metrics"); !strings.Contains(metrics, "\nprefixproxy_reload_successful 1\n") {
		t.Error("prefixproxy_reload_successful is not 1")
	}
}

// A daemon that is killed, or crashes, is started again.
func (m *packaged) kill(t *testing.T) {
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGQUIT} {
		before := m.mainPID()
		m.run(fmt.Sprintf("kill -%d %s", signal, before))
		m.startedAgain(t, before)
	}
}

// startedAgain waits for another process than before, and looks whether it works.
func (m *packaged) startedAgain(t *testing.T, before string) {
	t.Helper()
	eventually(t, "another process", func() error {
		if now := m.mainPID(); now == "0" || now == before {
			return fmt.Errorf("it is %s, after %s", now, before)
		}
		return nil
	})
	m.flows(t)
}

func (m *packaged) mainPID() string {
	return strings.TrimSpace(m.run("systemctl show -P MainPID prefixproxy"))
}

// A daemon that stands still is ended by the watchdog, and started again.
func (m *packaged) watchdog(t *testing.T) {
	m.write("/etc/systemd/system/prefixproxy.service.d/watchdog.conf", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=1\n")
	m.run("systemctl daemon-reload; systemctl restart prefixproxy")
	m.flows(t)
	before := m.mainPID()
	m.run("kill -STOP " + before)
	m.startedAgain(t, before)
	if out := m.run("journalctl -u prefixproxy | cat"); !strings.Contains(out, "Watchdog timeout") {
		t.Error("there was no watchdog time-out")
	}
	m.run("rm -r /etc/systemd/system/prefixproxy.service.d; systemctl daemon-reload; systemctl restart prefixproxy")
}

// A log that nobody reads holds up nothing.
func (m *packaged) unreadLog(t *testing.T) {
	m.write("/etc/systemd/system/prefixproxy.service.d/log.conf", "[Service]\nWatchdogSec=2\nStandardError=file:/tmp/log\n")
	m.run("mkfifo /tmp/log; setsid sleep 1000 <>/tmp/log >/dev/null 2>&1 & echo $! >/tmp/holder; systemctl daemon-reload; systemctl restart prefixproxy")
	m.flows(t)
	before := m.mainPID()
	m.run("timeout 1 dd if=/dev/zero of=/tmp/log oflag=nonblock bs=1 count=100000 2>/dev/null || true; systemctl stop etcd; systemctl start etcd")
	m.flows(t)
	if now := m.mainPID(); now != before {
		t.Errorf("process %s, after %s", now, before)
	}
	m.run("rm -r /etc/systemd/system/prefixproxy.service.d; systemctl daemon-reload; timeout 30 systemctl restart prefixproxy; kill $(cat /tmp/holder); rm /tmp/log")
	m.startedAgain(t, before)
}

// With a socket unit and an invalid configuration, what comes starts the daemon, but
// not in a frenzy; nothing of it is lost, and mending the file is all there is to do.
func (m *packaged) invalid(t *testing.T) {
	m.run("cp " + packagedConfig + " /tmp/good.yaml; echo 'colour: blue' >>" + packagedConfig)
	if out, err := m.try("systemctl restart prefixproxy"); err == nil {
		t.Errorf("a restart with an invalid configuration succeeded: %s", out)
	}
	refused := func() (at []int) {
		for _, e := range m.journal(t) {
			if strings.Contains(e.Message, `colour: unknown key "colour"`) && strings.HasPrefix(e.Message, "prefixproxy: error") {
				var us int
				fmt.Sscanf(strings.Trim(string(e.At), `"`), "%d", &us)
				at = append(at, us)
			}
		}
		return at
	}
	const n = 50
	for i := range n {
		m.send(t, "udp", "127.0.0.1:8125", fmt.Sprintf("host.invalid.%d:1|c", i))
		m.send(t, "tcp", "127.0.0.1:2003", fmt.Sprintf("host.invalid.%d 1 1700000000\n", i))
	}
	eventually(t, "two more starts", func() error {
		if got := len(refused()); got < 3 {
			return fmt.Errorf("%d", got)
		}
		return nil
	})
	starts := refused()
	for i, at := range starts[1:] {
		if gap := time.Duration(at-starts[i]) * time.Microsecond; gap < 4*time.Second {
			t.Errorf("started again after %v", gap)
		}
	}
	if got := strings.TrimSpace(m.run("systemctl is-active prefixproxy.socket")); got != "active" {
		t.Errorf("the socket unit is %s", got)
	}
	m.run("cp /tmp/good.yaml " + packagedConfig)
	awaitAll(t, m.statsd, n, func(i int) string { return fmt.Sprintf("Denali.invalid.%d:1|c", i) })
	awaitAll(t, m.carbon, n, func(i int) string { return fmt.Sprintf("Denali.invalid.%d 1 1700000000", i) })
}

// The socket unit changes under traffic, by the commands of OPERATIONS.md.
func (m *packaged) otherSockets(t *testing.T) {
	commands := operationsCommands(t, "After a change of a socket unit")
	for range 3 {
		stop := make(chan struct{})
		ended := make(chan error, 1)
		go func() {
			ended <- m.inside(func() error {
				packets, err := net.Dial("udp", "127.0.0.1:8125")
				if err != nil {
					return err
				}
				defer packets.Close()
				for {
					select {
					case <-stop:
						return nil
					case <-time.After(time.Millisecond):
						packets.Write([]byte("host.others:1|c")) // refused for a moment
					}
				}
			})
		}()
		m.run(commands)
		close(stop)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		for _, unit := range []string{"prefixproxy.socket", "prefixproxy"} {
			if got, _ := m.try("systemctl is-active " + unit); got != "active\n" {
				t.Errorf("%s is %s", unit, got)
			}
		}
	}
	m.flows(t)
}

// operationsCommands returns the commands in OPERATIONS.md below a paragraph that holds
// words.
func operationsCommands(t testing.TB, words string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/OPERATIONS.md")
	if err != nil {
		t.Fatal(err)
	}
	_, below, _ := strings.Cut(string(text), words)
	found := commandBlock.FindStringSubmatch(below)
	if found == nil {
		t.Fatalf("OPERATIONS.md has no commands below %q", words)
	}
	return found[2]
}

// etcd's password comes from a file that root and the service's group can read, or as a
// credential: the service has it, and so has a person who may.
func (m *packaged) password(t *testing.T) {
	m.run("cp " + packagedConfig + " /tmp/good.yaml")
	m.run("echo secret | install -m 0640 -g prefixproxy /dev/stdin /etc/prefixproxy/etcd-password")
	for _, file := range []string{"/etc/prefixproxy/etcd-password", "${CREDENTIALS_DIRECTORY}/etcd-password"} {
		m.run("cp /tmp/good.yaml " + packagedConfig)
		m.run("sed -i 's#^  endpoints:.*#&\\n  username: prefixproxy\\n  password_file: " + file + "#' " + packagedConfig)
		if strings.Contains(file, "$") {
			m.write("/etc/systemd/system/prefixproxy.service.d/password.conf", "[Service]\nLoadCredential=etcd-password:/etc/prefixproxy/etcd-password\n")
			m.run("systemctl daemon-reload")
		}
		m.run("systemctl restart prefixproxy")
		m.flows(t)
		for _, command := range []string{"check", "members", "who Denali", "history x"} {
			m.run("prefixproxy " + command)
		}
		m.run("systemctl reload prefixproxy")
		if out, err := m.try("runuser -u nobody -- prefixproxy members"); err == nil || !strings.Contains(out, "hint: run it as root") {
			t.Errorf("with %s, somebody who may not read the password: %v\n%s", file, err, out)
		}
	}
	m.run("rm -r /etc/systemd/system/prefixproxy.service.d; cp /tmp/good.yaml " + packagedConfig + "; systemctl daemon-reload; systemctl restart prefixproxy")
}

// Unix sockets in the service's own directory, and those of the socket unit, are for
// everybody who is let.
func (m *packaged) unixSockets(t *testing.T) {
	m.run("cp " + packagedConfig + " /tmp/good.yaml")
	m.run(`cat >>` + packagedConfig + ` <<'END'
listen:
  statsd: [udp://localhost:8125, tcp://localhost:8125, "unixgram:///run/prefixproxy/statsd.sock?mode=0666", "unixgram:///run/prefixproxy-sockets/statsd.sock"]
  carbon: [tcp://localhost:2003, udp://localhost:2003, "unix:///run/prefixproxy-sockets/carbon.sock"]
END`)
	m.run("systemctl stop prefixproxy.socket prefixproxy; systemctl start prefixproxy-unix.socket prefixproxy.socket prefixproxy")
	for i, socket := range []string{"/run/prefixproxy/statsd.sock", "/run/prefixproxy-sockets/statsd.sock"} {
		m.run(fmt.Sprintf("printf 'host.unix%d:1|c' | runuser -u nobody -- nc -uU -w1 %s", i, socket))
		m.statsd.Await(t, fmt.Sprintf("Denali.unix%d:1|c", i))
	}
	m.run("cp /tmp/good.yaml " + packagedConfig + "; systemctl stop prefixproxy-unix.socket prefixproxy.socket prefixproxy; systemctl start prefixproxy.socket prefixproxy")
	m.flows(t)
}

// An upgrade under traffic restarts the service and loses nothing.
func (m *packaged) upgrade(t *testing.T, next string) {
	m.copyIn(next, "/tmp/next.deb")
	before := m.run("prefixproxy version")
	m.load(t, "upgrade", 3000, 150, func(part int) {
		if part == 0 {
			m.run("apt-get install -y /tmp/next.deb 2>&1")
		}
	})
	if after := m.run("prefixproxy version"); after == before {
		t.Errorf("the version is still %s", before)
	}
	version := strings.Fields(m.run("prefixproxy version"))[1]
	if metrics := m.run("curl -s localhost:8127/metrics"); !strings.Contains(metrics, `version="`+version+`"`) {
		t.Error("the running daemon is not of the new version")
	}
	if got := strings.TrimSpace(m.run("systemctl is-enabled prefixproxy")); got != "enabled" {
		t.Errorf("the service is %s", got)
	}
}

// Removed, the configuration and what waits stay; purged, nothing does.
func (m *packaged) purge(t *testing.T) {
	m.run("apt-get remove -y prefixproxy 2>&1; test -e " + packagedConfig + "; test -d /var/lib/prefixproxy")
	for _, unit := range []string{"prefixproxy", "prefixproxy.socket"} {
		if got, _ := m.try("systemctl is-active " + unit); got == "active\n" {
			t.Errorf("%s is active after the removal", unit)
		}
	}
	m.run("rm -f /etc/prefixproxy/etcd-password; apt-get purge -y prefixproxy 2>&1")
	left := strings.Fields(m.run("find /etc /usr /lib /run /var/lib /dev/shm -name '*prefixproxy*' -not -path '/var/lib/dpkg/*' -not -path '/usr/local/*' -not -path '/run/systemd/*' 2>/dev/null || true"))
	left = slices.DeleteFunc(left, func(path string) bool { return strings.HasPrefix(path, "/var/lib/systemd/") })
	if len(left) > 0 {
		t.Errorf("left after the purge: %q", left)
	}
}
