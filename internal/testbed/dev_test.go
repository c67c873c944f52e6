package testbed

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// devConfig gives dev ports that nobody else has.
func devConfig(t testing.TB) (config string, statsd, carbon int) {
	t.Helper()
	statsd, carbon = sidebyside.FreePort(t), sidebyside.FreePort(t)
	return fmt.Sprintf("listen:\n  statsd: [udp://localhost:%d]\n  carbon: [tcp://localhost:%d]\n", statsd, carbon), statsd, carbon
}

// dev needs nothing but itself: it is Denali, and prints what it would forward.
func TestDev(t *testing.T) {
	t.Parallel()
	config, statsd, carbon := devConfig(t)
	d := startDev(t, t.TempDir(), config)
	d.AwaitName(t, "Denali")
	for _, host := range []string{"127.0.0.1", "[::1]"} {
		send(t, "udp", fmt.Sprintf("%s:%d", host, statsd), "host.requests:1|c")
		send(t, "tcp", fmt.Sprintf("%s:%d", host, carbon), "host.cpu 3.4 1700000000\n")
	}
	eventually(t, "four lines on stdout, and nothing else", func() error {
		lines := d.Stdout.Lines()
		slices.Sort(lines)
		want := []string{"Denali.cpu 3.4 1700000000", "Denali.cpu 3.4 1700000000", "Denali.requests:1|c", "Denali.requests:1|c"}
		if !slices.Equal(lines, want) {
			return fmt.Errorf("got %q, want %q", lines, want)
		}
		return nil
	})
	checkMembersCommand(t, d)
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

// A server that hangs up ends no dev.
func TestDevOutlivesServers(t *testing.T) {
	t.Parallel()
	server, err := net.Listen("unix", filepath.Join(t.TempDir(), "carbon"))
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	hungUp := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := server.Accept()
			if err != nil {
				return
			}
			conn.Read(make([]byte, 1<<10))
			conn.Close()
			hungUp <- struct{}{}
		}
	}()
	config, _, carbon := devConfig(t)
	d := startDev(t, t.TempDir(), config+"forward: {carbon: {to: [unix://"+server.Addr().String()+"]}}\n")
	d.AwaitName(t, "Denali")
	for range 3 {
		eventually(t, "the server hangs up", func() error {
			send(t, "tcp", fmt.Sprintf("127.0.0.1:%d", carbon), "host.cpu 3.4 1700000000\n")
			select {
			case <-hungUp:
				return nil
			case <-d.Ended():
				t.Fatal("dev ended")
			default:
			}
			return errors.New("not yet")
		})
	}
}

// checkMembersCommand runs the command that the greeting gives.
func checkMembersCommand(t testing.TB, d *daemon) {
	t.Helper()
	_, command, _ := strings.Cut(d.Stderr.Await(t, "prefixproxy members --config "), "prefixproxy ")
	members := start(t, program(t, []string{"DIR=" + d.Dir}, strings.Fields(command)...))
	if code := members.ExitCode(t); code != 0 {
		t.Errorf("members ended with %d, want 0", code)
	}
	if got := members.Stdout.Text(); !strings.Contains(got, "Denali") {
		t.Errorf("members printed\n%s\nwant Denali in it", got)
	}
}

// A second dev on the same machine says which port is in use, and what to do.
func TestSecondDev(t *testing.T) {
	t.Parallel()
	config, statsd, _ := devConfig(t)
	first := startDev(t, t.TempDir(), config)
	first.AwaitName(t, "Denali")
	second := startDev(t, t.TempDir(), config)
	if code := second.ExitCode(t); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	checkError(t, second.process, fmt.Sprint(statsd))
	second.Stderr.Await(t, "prefixproxy: hint: ")
	if got := second.Stdout.Lines(); len(got) > 0 {
		t.Errorf("stdout %q, want none", got)
	}
}

// checkQueueBelow checks that the one daemon which has its state below dir has its
// Carbon queue there, too.
func checkQueueBelow(t testing.TB, dir string) {
	t.Helper()
	var named []string
	eventually(t, "a file that says where the queue is", func() (err error) { // the name may be claimed sooner
		if named, err = filepath.Glob(filepath.Join(dir, "*", "state", "store", "memory")); err == nil && len(named) != 1 {
			err = fmt.Errorf("there are %q", named)
		}
		return err
	})
	queue, err := os.ReadFile(named[0])
	if err != nil || !strings.HasPrefix(string(queue), dir) {
		t.Errorf("the queue is in %q, %v; want it below %s", queue, err, dir)
	}
}

// Where no --data-dir is given, the temporary one goes with the process.
func TestDevLeavesNothing(t *testing.T) {
	t.Parallel()
	config, _, _ := devConfig(t)
	dir := t.TempDir()
	tmp := filepath.Join(dir, "tmp")
	if err := os.Mkdir(tmp, 0o700); err != nil {
		t.Fatal(err)
	}
	file := writeFile(t, config+"admin: {listen: \"\"}\n", dir, "config.yaml")
	p := start(t, program(t, []string{"TMPDIR=" + tmp}, "dev", "--config", file))
	p.Stderr.Await(t, "Denali")
	checkQueueBelow(t, tmp) // where it is found with the rest, if dev is killed
	if code := p.Stop(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
	left, err := os.ReadDir(tmp)
	if err != nil || len(left) > 0 {
		t.Errorf("left in the temporary directory: %v, %v; want nothing", left, err)
	}
}
