//go:build linux

package testbed

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/proxy"
)

// A client whose host goes without a word is found by keep-alives, within three minutes,
// and its unfinished line is counted. They are set on every connection; here they are made
// faster when that has been seen.
func TestVanishedClient(t *testing.T) {
	t.Parallel()
	far := newFaraway(t)
	sink := startSink(t)
	d := startDaemon(t, strings.ReplaceAll(smallConfig, "tcp://127.0.0.1:0", "tcp://"+far.near()+":0"), "ETCD="+embeddedEtcd(t), "CARBON="+sink.Addr)
	d.AwaitName(t, "Denali")
	carbon := d.Address(t, "carbon", "tcp://")
	dial := func() (conn net.Conn, err error) {
		err = far.inside(func() (err error) {
			conn, err = net.Dial("tcp", carbon)
			return err
		})
		return conn, err
	}
	gone, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	defer gone.Close()
	stays, err := net.Dial("tcp", carbon)
	if err != nil {
		t.Fatal(err)
	}
	defer stays.Close()
	io.WriteString(stays, "host.before 1 1700000000\n")
	io.WriteString(gone, "host.whole 1 1700000000\nhost.cut 1")
	sink.Await(t, "Denali.whole ")
	sink.Await(t, "Denali.before ")

	far.vanish()
	for _, client := range []net.Conn{gone, stays} {
		server := socketTo(t, d.cmd.Process.Pid, client.LocalAddr())
		for _, o := range []struct {
			name                      string
			level, option, want, here int
		}{
			{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1, 1},
			{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60, 1},
			{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15, 1},
			{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 8, 2},
		} {
			if got, err := unix.GetsockoptInt(server, o.level, o.option); err != nil || got != o.want {
				t.Errorf("%s: got %d, %v; want %d", o.name, got, err, o.want)
			}
			if err := unix.SetsockoptInt(server, o.level, o.option, o.here); err != nil {
				t.Fatal(err)
			}
		}
		unix.Close(server)
	}
	d.awaitBooks(t, "carbon", func(b proxy.Books) bool { return b.Dropped["unterminated"] == 1 })
	if _, metrics, _ := d.Get("/metrics"); !strings.Contains(metrics, "\nprefixproxy_connections{listener=\"tcp://"+carbon+"\"} 1\n") {
		t.Errorf("not one connection is open: %s", metrics)
	}
	io.WriteString(stays, "host.after 1 1700000000\n")
	sink.Await(t, "Denali.after ")
	checkBooks(t, d.AwaitUp(t))
}

// socketTo returns a descriptor of the socket that a process has to peer.
func socketTo(t testing.TB, pid int, peer net.Addr) int {
	t.Helper()
	process, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(process)
	open, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range open {
		number, _ := strconv.Atoi(file.Name())
		fd, err := unix.PidfdGetfd(process, number, 0)
		if err != nil {
			continue // closed meanwhile
		}
		if at, err := unix.Getpeername(fd); err == nil {
			if at, ok := at.(*unix.SockaddrInet4); ok && fmt.Sprintf("%s:%d", net.IP(at.Addr[:]), at.Port) == peer.String() {
				return fd
			}
		}
		unix.Close(fd)
	}
	t.Fatalf("no socket to %s", peer)
	return -1
}
