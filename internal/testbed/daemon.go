package testbed

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/admin"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// A daemon is a running prefixproxy.
type daemon struct {
	Dir string // state, sockets and configuration are below it
	*process

	http *http.Client // to its admin page
}

// startDaemon starts `prefixproxy run` with a configuration file. It adds the
// sections membership and admin, so that nothing is shared with another daemon;
// ${NAME} in config stands for the value in vars, and ${DIR} for the daemon's
// directory.
func startDaemon(t testing.TB, config string, vars ...string) *daemon {
	t.Helper()
	dir := t.TempDir()
	return startDaemonIn(t, dir, config, vars...)
}

// startDaemonIn is startDaemon with a directory that an earlier daemon had.
func startDaemonIn(t testing.TB, dir, config string, vars ...string) *daemon {
	t.Helper()
	return startIn(t, dir, "run", config, vars...)
}

// startDev starts `prefixproxy dev` likewise, with its data below dir/data.
func startDev(t testing.TB, dir, config string, vars ...string) *daemon {
	t.Helper()
	return startIn(t, dir, "dev", config, append(vars, "TMPDIR="+dir)...)
}

// startPassed is startDaemonIn with sockets that are passed as systemd passes them.
func startPassed(t testing.TB, dir, config string, sockets []*os.File, vars ...string) *daemon {
	t.Helper()
	cmd := commandIn(t, dir, "run", config, vars...)
	pass(cmd, sockets)
	return newDaemon(dir, start(t, cmd))
}

// pass lets cmd have sockets as systemd passes them: from descriptor 3 on, with
// LISTEN_PID the process's own, which a shell becomes.
func pass(cmd *exec.Cmd, sockets []*os.File) {
	script := fmt.Sprintf(`LISTEN_PID=$$ LISTEN_FDS=%d exec "$@"`, len(sockets))
	cmd.Args = append([]string{"sh", "-c", script, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path, cmd.ExtraFiles = "/bin/sh", sockets
}

// fileOf returns a descriptor of a socket, open until the end of the test.
func fileOf(t testing.TB, socket interface{ File() (*os.File, error) }) *os.File {
	t.Helper()
	file, err := socket.File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func startIn(t testing.TB, dir, command, config string, vars ...string) *daemon {
	t.Helper()
	return newDaemon(dir, start(t, commandIn(t, dir, command, config, vars...)))
}

// commandIn writes the configuration file and returns the command.
func commandIn(t testing.TB, dir, command, config string, vars ...string) *exec.Cmd {
	t.Helper()
	file := writeFile(t, config+`
membership:
  state_dir: ${DIR}/state
  owner: "`+owner(vars)+`"
admin:
  listen: unix://${DIR}/admin.sock
`, dir, "config.yaml")
	args := []string{command, "--config", file}
	if command == "dev" {
		args = append(args, "--data-dir", filepath.Join(dir, "data"))
	}
	return program(t, append(vars, "DIR="+dir, "RUNTIME_DIRECTORY="+dir), args...)
}

// owner returns what vars say that the host is, "OWNER=web17"; "": the host's name.
func owner(vars []string) string {
	for _, v := range vars {
		if name, ok := strings.CutPrefix(v, "OWNER="); ok {
			return name
		}
	}
	return ""
}

// newDaemon returns the daemon that runs as p, with its page at dir/admin.sock.
func newDaemon(dir string, p *process) *daemon { return newDaemonAt(dir, "admin.sock", p) }

// newDaemonAt is newDaemon with its page at another path below dir.
func newDaemonAt(dir, page string, p *process) *daemon {
	return &daemon{Dir: dir, process: p, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, page))
		},
	}}}
}

// Get returns a page of the daemon.
func (d *daemon) Get(path string) (code int, body string, err error) {
	resp, err := d.http.Get("http://localhost" + path)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text), err
}

// Status returns what /status.json says.
func (d *daemon) Status() (status admin.Status, err error) {
	_, body, err := d.Get("/status.json")
	if err != nil {
		return status, err
	}
	return status, json.Unmarshal([]byte(body), &status)
}

// AwaitUp waits until the daemon answers, ready or not, and returns its status.
func (d *daemon) AwaitUp(t testing.TB) (status admin.Status) {
	t.Helper()
	d.eventually(t, "daemon up", func() (err error) {
		status, err = d.Status()
		return err
	})
	return status
}

// AwaitReady waits until the daemon is ready, and returns its status.
func (d *daemon) AwaitReady(t testing.TB) admin.Status {
	t.Helper()
	d.eventually(t, "daemon ready", func() error {
		code, body, err := d.Get("/readyz")
		if err == nil && code != http.StatusOK {
			err = fmt.Errorf("%d %q", code, body)
		}
		return err
	})
	return d.AwaitUp(t)
}

// AwaitName waits until the daemon holds a name, and checks which.
func (d *daemon) AwaitName(t testing.TB, want string) {
	t.Helper()
	d.eventually(t, "a name", func() error {
		status, err := d.Status()
		if err == nil && status.State != "held" {
			err = fmt.Errorf("state %s", status.State)
		}
		if err == nil && *status.Name != want {
			t.Fatalf("got the name %q, want %q", *status.Name, want)
		}
		return err
	})
}

// awaitBooks waits until a protocol's books are as they should be.
func (d *daemon) awaitBooks(t testing.TB, protocol string, are func(proxy.Books) bool) {
	t.Helper()
	d.eventually(t, "the books of "+protocol, func() error {
		status, err := d.Status()
		if b := status.Lines[protocol]; err == nil && !are(b) {
			err = fmt.Errorf("they are %+v", b)
		}
		return err
	})
}

// eventually is the function eventually, for as long as the daemon lives.
func (d *daemon) eventually(t testing.TB, what string, check func() error) {
	t.Helper()
	eventually(t, what, func() error {
		err := check()
		if d.hasEnded() {
			t.Fatalf("%s: the daemon has ended", what)
		}
		return err
	})
}

// Address returns where the daemon listens: the address of the listener of a
// protocol that begins with prefix, like "udp://127.0.0.1:", without the scheme.
func (d *daemon) Address(t testing.TB, protocol, prefix string) string {
	t.Helper()
	for _, l := range d.AwaitUp(t).Listeners {
		if l.Protocol == protocol && strings.HasPrefix(l.Address, prefix) {
			_, address, _ := strings.Cut(l.Address, "://")
			address, _, _ = strings.Cut(address, "?")
			return address
		}
	}
	t.Fatalf("no %s listener at %s…", protocol, prefix)
	return ""
}

// checkBooks fails the test unless every line is accounted for.
func checkBooks(t testing.TB, status admin.Status) {
	t.Helper()
	if err := balance(status); err != nil {
		t.Error(err)
	}
}

// balance says which lines are not accounted for:
// received + adopted = forwarded + dropped + queued + spooled.
func balance(status admin.Status) error {
	for protocol, b := range status.Lines {
		out := b.Forwarded + b.Queued + b.Spooled
		for _, n := range b.Dropped {
			out += n
		}
		if b.Received+b.Adopted != out {
			return fmt.Errorf("%s books don't balance: %+v", protocol, b)
		}
	}
	return nil
}
