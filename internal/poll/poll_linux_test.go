package poll

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const patience = 30 * time.Second // only a test that fails waits for so long

// A socket that is waited for is told when something comes, each time, and when its peer has gone.
func TestWait(t *testing.T) {
	p := startPoller(t)
	near, far := unixPair(t)
	s := own(t, p, near)
	for _, text := range []string{"one", "two"} {
		if n, err := s.Read(make([]byte, 8)); !errors.Is(err, unix.EAGAIN) {
			t.Fatalf("read %d, %v before something came, want EAGAIN", n, err)
		}
		far.Write([]byte(text))
		if err := s.Wait(t.Context(), patience); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 8)
		if n, err := s.Read(b); err != nil || string(b[:n]) != text {
			t.Fatalf("got %q, %v; want %q", b[:n], err, text)
		}
	}
	far.Close()
	if err := s.Wait(t.Context(), patience); err != nil {
		t.Fatal(err)
	}
	if n, err := s.Read(make([]byte, 8)); n != 0 || err != nil {
		t.Errorf("got %d, %v; want the end", n, err)
	}
}

// Nothing comes: the wait ends with its limit or its context, and costs the socket nothing.
func TestWaitInVain(t *testing.T) {
	p := startPoller(t)
	near, far := unixPair(t)
	s := own(t, p, near)
	if err := s.Wait(t.Context(), time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("got %v, want %v", err, os.ErrDeadlineExceeded)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(over, 0); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
	far.Write([]byte("x"))
	if err := s.Wait(t.Context(), patience); err != nil {
		t.Error(err)
	}
}

// What comes while nobody waits for it is told at the next wait; a nap does so by itself.
func TestNap(t *testing.T) {
	p, err := New() // which nobody runs
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	near, far := unixPair(t)
	s := own(t, p, near)
	told := make(chan error)
	go func() { told <- s.Wait(t.Context(), patience) }()
	far.Write([]byte("x"))
	for {
		p.Nap(time.Millisecond)
		select {
		case err := <-told:
			if err != nil {
				t.Error(err)
			}
			return
		default:
		}
	}
}

// A socket that was closed is used no more, though its number is another's by then.
func TestClosed(t *testing.T) {
	p := startPoller(t)
	near, _ := unixPair(t)
	s := own(t, p, near)
	s.Close()
	s.Close()
	used := func(int) error { t.Error("it was used"); return nil }
	if err := s.Use(used); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, want %v", err, net.ErrClosed)
	}
}

// Datagrams are received as they were sent, with their senders; of one that is too long, it is known how
// much is missing; and the room may be divided anew.
func TestPackets(t *testing.T) {
	p := startPoller(t)
	to, from := udpPair(t)
	s := own(t, p, to)
	var packets Packets
	if n, err := packets.Recv(s, 100, Slots(100)); !errors.Is(err, unix.EAGAIN) {
		t.Errorf("got %d, %v; want EAGAIN", n, err)
	}
	for _, size := range []int{100, 10, 10, 64 << 10} {
		sent := []string{"a", "", strings.Repeat("b", 100), strings.Repeat("c", 101)}
		for _, text := range sent {
			from.Write([]byte(text))
		}
		for got := 0; got < len(sent); {
			if err := s.Wait(t.Context(), patience); err != nil {
				t.Fatal(err)
			}
			n, err := packets.Recv(s, size, Slots(size))
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				data, lost := packets.Packet(i)
				want := sent[got+i]
				if string(data) != want[:min(size, len(want))] || lost != len(want)-len(data) || packets.Peer(i) != from.LocalAddr().String() {
					t.Errorf("%d bytes at most: got %q, and %d more, from %s; want %q from %s", size, data, lost, packets.Peer(i), want, from.LocalAddr())
				}
			}
			got += n
		}
		packets.Forget()
	}
}

// A datagram that was refused is told to who waits for it; one that arrived is not.
func TestErrors(t *testing.T) {
	server, client := udpPair(t)
	fd, err := Detach(client)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	refusals, err := ErrorsOf(fd)
	if err != nil {
		t.Fatal(err)
	}
	unix.Write(fd, []byte("arrives"))
	if HasError(fd) {
		t.Error("there is an error, though somebody listens")
	}
	server.Close()
	unix.Write(fd, []byte("is refused"))
	if err := refusals.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := unix.Write(fd, nil); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("got %v, want %v", err, unix.ECONNREFUSED)
	}
	ended := make(chan error)
	go func() { ended <- refusals.Wait() }()
	refusals.Close()
	if err := <-ended; err == nil {
		t.Error("a wait ended without an error when it was closed")
	}
}

// startPoller runs a poller until the test ends.
func startPoller(t *testing.T) *Poller {
	p, err := New()
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(p.Run)
	t.Cleanup(func() {
		p.Close()
		running.Wait()
	})
	return p
}

func own(t *testing.T, p *Poller, conn Conn) *Socket {
	fd, err := Detach(conn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := p.Own(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// unixPair returns the two ends of a stream.
func unixPair(t *testing.T) (near, far *os.File) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far = os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { far.Close() })
	return near, far
}

// udpPair returns a socket, and another that sends to it.
func udpPair(t *testing.T) (to, from *net.UDPConn) {
	to, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	if from, err = net.DialUDP("udp", nil, to.LocalAddr().(*net.UDPAddr)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { to.Close(); from.Close() })
	return to, from
}
