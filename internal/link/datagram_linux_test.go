package link

import (
	"bytes"
	"errors"
	"net"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// That a server refuses datagrams is heard, without a look; of one that takes them, nothing
// is, until the link is closed.
func TestDatagramWatch(t *testing.T) {
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []error{nil, syscall.ECONNREFUSED} {
		conn, err := net.Dial("udp", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		l, err := newDatagram(conn, "udp", 1432)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		heard := make(chan error, 1)
		go func() {
			_, err := l.Watch()
			heard <- err
		}()
		if n, err := l.Write([]byte("a:1|c\n"), time.Second); n != 6 || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		if want == nil { // before the server is closed
			if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
				t.Fatal(err)
			}
			l.Close()
		}
		if err := <-heard; !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
		server.Close()
	}
}

// What comes late is sent little by little.
func TestNarrowDatagram(t *testing.T) {
	_, l := datagramLink(t, 6)
	lines := bytes.Repeat([]byte("a:1|c\n"), 2*sendBatch)
	write := func(isLate bool, want int) {
		t.Helper()
		l.Narrow(isLate)
		if n, err := l.Write(lines, time.Second); n != 6*want || err != nil {
			t.Fatalf("wrote %d, %v; want %d datagrams", n, err, want)
		}
	}
	write(false, sendBatch)
	for range narrowBatches {
		write(true, narrowBatch)
	}
	write(true, sendBatch)
	write(false, sendBatch)
	write(true, narrowBatch)
}

// Of datagrams that one system call sends, the kernel keeps the refusal of one to itself when it
// sends the next: none of them counts as delivered all the same.
func TestRefusedTogether(t *testing.T) {
	for _, host := range []string{"127.0.0.1:0", "[::1]:0"} {
		server, err := net.ListenPacket("udp", host)
		if err != nil {
			t.Skip(err)
		}
		conn, err := net.Dial("udp", server.LocalAddr().String())
		if err != nil {
			t.Fatal(err)
		}
		server.Close()
		l, err := newDatagram(conn, "udp", 10)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if n, err := l.Write([]byte("a:1|c\nb:1|c\n"), time.Second); n != 6 || err != nil { // b met the refusal of a
			t.Fatalf("%s: wrote %d, %v", host, n, err)
		}
		if peer, err := l.Look(); peer.Acked != 0 || !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("%s: %d bytes are delivered, %v", host, peer.Acked, err)
		}
	}
}

// What a packet filter of our own host drops now and then is sent again, and is not the server's fault;
// a filter that lets nothing through is told.
func TestFilteredDatagrams(t *testing.T) {
	runtime.LockOSThread() // the thread ends with the test, and its network too
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("no network namespace can be made here: ", err)
	}
	run := func(command string) {
		t.Helper()
		words := strings.Fields(command)
		if out, err := exec.Command(words[0], words[1:]...).CombinedOutput(); err != nil {
			t.Skipf("%s: %v: %s", command, err, out)
		}
	}
	run("ip link set lo up")
	run("iptables -A OUTPUT -p udp -m statistic --mode nth --every 2 --packet 0 -j DROP")
	server, l := datagramLink(t, 6)
	for sent, refused := 0, 0; sent < 20; {
		n, err := l.Write([]byte("a:1|c\n"), time.Second)
		if err != nil {
			t.Fatalf("after %d datagrams, and %d that were dropped: %v", sent, refused, err)
		}
		if sent += n / 6; n == 0 {
			refused++
			continue
		}
		if _, _, err := server.ReadFrom(make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
	}
	run("iptables -A OUTPUT -p udp -j DROP")
	var err error
	for range 2 * maxFiltered {
		if _, err = l.Write([]byte("a:1|c\n"), time.Second); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.EPERM) {
		t.Errorf("got %v where nothing gets through, want %v", err, syscall.EPERM)
	}
}

// datagramLink returns a server, and a link to it with datagrams of max bytes.
func datagramLink(t *testing.T, max int) (server net.PacketConn, l Link) {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	conn, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	if l, err = newDatagram(conn, "udp", max); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return server, l
}
