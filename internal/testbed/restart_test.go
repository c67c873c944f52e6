package testbed

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// A daemon whose sockets are bound before it starts.
const passedConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: ["udp://${STATSD_IN}"]
  carbon: ["tcp://${CARBON_IN}"]
forward:
  statsd: {to: ["stdout:"]}
  carbon: {to: ["tcp://${CARBON}"], replay: 0}
telemetry:
  statsd: false
`

// bindSockets binds a UDP and a TCP socket, and returns their addresses and the
// descriptors, which are all that is left of them.
func bindSockets(t testing.TB) (udp, tcp string, files []*os.File) {
	t.Helper()
	packets, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	stream, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	files = []*os.File{fileOf(t, stream), fileOf(t, packets)} // not in the order of the configuration
	return packets.LocalAddr().String(), stream.Addr().String(), files
}

// listenForNotices returns what a daemon tells systemd, and the variable that tells
// it where.
func listenForNotices(t testing.TB, dir string) (variable string, notices *output) {
	t.Helper()
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	notices = newOutput()
	go func() {
		var b [4096]byte
		for {
			n, _, err := conn.ReadFrom(b[:])
			if err != nil {
				return
			}
			fmt.Fprintln(notices, string(b[:n]))
		}
	}()
	return "NOTIFY_SOCKET=" + path, notices
}

// A restart by SIGTERM under load, with sockets that systemd holds: no connection
// is refused, no line over a new connection is lost, and datagrams that came while
// nobody ran are found.
func TestRestartUnderLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	sink := startSink(t)
	udp, tcp, files := bindSockets(t)
	notify, notices := listenForNotices(t, dir)
	vars := []string{"ETCD=" + embeddedEtcd(t), "CARBON=" + sink.Addr, "STATSD_IN=" + udp, "CARBON_IN=" + tcp, notify}
	startAgain := func() *daemon { return startPassed(t, dir, passedConfig, files, vars...) }
	d := startAgain()
	d.AwaitReady(t)
	notices.Await(t, "READY=1")

	const writers = 4
	ctx, stop := context.WithCancel(t.Context())
	var load sync.WaitGroup
	defer load.Wait()
	defer stop()
	written := make([]int, writers)
	late := make([]map[int]bool, writers) // lines of connections that were open for longer than a stop waits, or nearly
	for w := range writers {
		late[w] = map[int]bool{}
		load.Go(func() {
			for {
				began := time.Now()
				conn, err := net.Dial("tcp", tcp)
				if err != nil {
					t.Errorf("connection refused: %v", err)
					return
				}
				fmt.Fprintf(conn, "host.w%d.n%d 1 1700000000\n", w, written[w])
				late[w][written[w]] = time.Since(began) > 200*time.Millisecond
				written[w]++
				conn.Close()
				select {
				case <-ctx.Done():
					return
				case <-time.After(2 * time.Millisecond):
				}
			}
		})
	}
	for restart := range 3 {
		sink.Await(t, fmt.Sprintf("w0.n%d ", len(sink.Lines())/writers+20))
		if code := d.Stop(t); code != 0 {
			t.Errorf("exit code %d after SIGTERM, want 0", code)
		}
		notices.Await(t, "STOPPING=1")
		checkEnd(t, d)
		send(t, "udp", udp, fmt.Sprintf("host.between%d:1|c", restart))
		d = startAgain()
		if len(d.AwaitReady(t).Lines["statsd"].Dropped) == 0 { // on a busy host a claim may take too long
			d.Stdout.Await(t, fmt.Sprintf("Denali.between%d:1|c", restart))
		}
	}
	stop()
	load.Wait()
	for w, n := range written {
		sink.Await(t, fmt.Sprintf("Denali.w%d.n%d ", w, n-1))
	}
	checkBooks(t, d.AwaitReady(t))
	d.Stop(t)
	came := map[string]bool{}
	for _, line := range sink.Lines() {
		came[line] = true
	}
	for w, n := range written {
		for i := range n {
			if line := fmt.Sprintf("Denali.w%d.n%d 1 1700000000", w, i); !came[line] && !late[w][i] {
				t.Errorf("%s is lost", line)
			}
		}
	}
}

// checkEnd checks that a daemon which has ended gave its name back after the drain.
func checkEnd(t testing.TB, d *daemon) {
	t.Helper()
	text := d.Stderr.Text()
	drain, release := strings.Index(text, "msg=draining"), strings.LastIndex(text, "released")
	if drain < 0 || release < drain {
		t.Errorf("the release did not come after the drain:\n%s", text)
	}
}

// A socket that nothing of the configuration wants is an error that names it.
func TestUnwantedSocket(t *testing.T) {
	t.Parallel()
	udp, tcp, files := bindSockets(t)
	config := strings.Replace(passedConfig, "statsd: [\"udp://${STATSD_IN}\"]", "statsd: [udp://127.0.0.1:0]", 1)
	d := startPassed(t, t.TempDir(), config, files, "ETCD="+embeddedEtcd(t), "CARBON="+startSink(t).Addr, "CARBON_IN="+tcp)
	if code := d.ExitCode(t); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	checkError(t, d.process, "udp://"+udp)
}

// systemd's own tool passes sockets to the daemon.
func TestSocketActivate(t *testing.T) {
	t.Parallel()
	tool := lookPath(t, "systemd-socket-activate", "systemd")
	dir := t.TempDir()
	sink := startSink(t)
	tcp := fmt.Sprintf("127.0.0.1:%d", sidebyside.FreePort(t))
	cmd := commandIn(t, dir, "run", passedConfig, "ETCD="+embeddedEtcd(t), "CARBON="+sink.Addr, "STATSD_IN=127.0.0.1:0", "CARBON_IN="+tcp)
	activate := exec.Command(tool, append([]string{"-l", tcp}, append(environment(cmd.Env), append([]string{cmd.Path}, cmd.Args[1:]...)...)...)...)
	d := newDaemon(dir, start(t, activate))
	eventually(t, "the tool listens", func() error {
		conn, err := net.Dial("tcp", tcp)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = fmt.Fprintln(conn, "host.activated 1 1700000000")
		return err
	})
	sink.Await(t, "Denali.activated 1 1700000000")
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

// environment gives variables as the options of systemd-socket-activate.
func environment(vars []string) (options []string) {
	for _, v := range vars {
		options = append(options, "-E", v)
	}
	return options
}
