package inlet

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/poll"
)

func newBinder(t testing.TB) *binder {
	t.Helper()
	p, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return &binder{poller: p}
}

func statsdAt(a address.Address) Spec { return Spec{line.StatsD, a} }

func hasIPv6() bool {
	l, err := net.Listen("tcp", "[::1]:0")
	if err == nil {
		l.Close()
	}
	return err == nil
}

// socketPath returns a path short enough for a unix socket.
func socketPath(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "pp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir + "/" + name
}

// localhost is one port in both families.
func TestLocalhost(t *testing.T) {
	if !hasIPv6() {
		t.Skip("no IPv6 on this host")
	}
	for _, network := range []string{"udp", "tcp"} {
		ls, err := newBinder(t).bindAll(t.Context(), []Spec{statsdAt(address.Address{Network: network, Host: "localhost"})})
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(ls)
		if len(ls) != 2 || ls[0].Address.Port != ls[1].Address.Port || ls[0].Address.Port == 0 {
			t.Errorf("%s: got %v and %v", network, ls[0].Address, ls[1].Address)
		}
	}
}

func TestPortInUse(t *testing.T) {
	for _, network := range []string{"udp", "tcp"} {
		ls, err := newBinder(t).bindAll(t.Context(), []Spec{statsdAt(address.Address{Network: network, Host: "127.0.0.1"})})
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll(ls)
		again, err := newBinder(t).bindAll(t.Context(), []Spec{statsdAt(ls[0].Address)})
		if err == nil {
			closeAll(again)
			t.Fatalf("%s: bound twice", network)
		}
		if !strings.Contains(err.Error(), ls[0].Address.String()) {
			t.Errorf("%s: the error does not name the address: %v", network, err)
		}
	}
}

// 0.0.0.0 is IPv4 alone, [::] is both families, and localhost too.
func TestFamilies(t *testing.T) {
	if !hasIPv6() {
		t.Skip("no IPv6 on this host")
	}
	for _, tt := range []struct {
		host   string
		v4, v6 bool
	}{
		{"0.0.0.0", true, false}, {"::", true, true}, {"localhost", true, true}, {"127.0.0.1", true, false}, {"::1", false, true}, {"", true, true},
	} {
		in := start(t, defaults, address.Address{Network: "tcp", Host: tt.host})
		port := in.Listeners()[0].Address.Port
		for host, want := range map[string]bool{"127.0.0.1": tt.v4, "::1": tt.v6} {
			conn, err := net.Dial("tcp", address.Address{Host: host, Port: port}.HostPort())
			if err == nil {
				conn.Close()
			}
			if got := err == nil; got != want {
				t.Errorf("%q by %s: %v, want %v", tt.host, host, got, want)
			}
		}
		in.stop()
	}
}

// A descriptor that is passed and can't be read from says why.
func TestPassedDescriptorIsWrong(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	socket := func(kind int) *os.File {
		fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
		if err != nil {
			t.Fatal(err)
		}
		return os.NewFile(uintptr(fd), "passed")
	}
	for want, f := range map[string]*os.File{
		"non-socket":    null,
		"Accept=no":     socket(unix.SOCK_STREAM),
		"ListenStream=": socket(unix.SOCK_SEQPACKET),
	} {
		if err := newBinder(t).inherit([]*os.File{f}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// A unix socket whose file is gone is bound anew by a reload, which leaves another's
// alone.
func TestRebindLostSocket(t *testing.T) {
	a := address.Address{Network: "unix", Path: socketPath(t, "s")}
	in := start(t, defaults, a)
	if err := os.Remove(a.Path); err != nil {
		t.Fatal(err)
	}
	if err := in.Rebind(t.Context(), []Spec{statsdAt(a)}, defaults); err != nil {
		t.Fatal(err)
	}
	write(t, in.dial(t, 0), "first\n")
	in.came(t, "first")

	if err := os.Remove(a.Path); err != nil {
		t.Fatal(err)
	}
	other, err := net.Listen("unix", a.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := in.Rebind(t.Context(), []Spec{statsdAt(a)}, defaults); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("got %v, want %v", err, syscall.EADDRINUSE)
	}
}

// A nameserver that does not answer keeps nobody waiting who wants to end.
func TestLookupEndsWithItsContext(t *testing.T) {
	asked := make(chan struct{}, 16)
	usual := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	defer func() { net.DefaultResolver = usual }()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := newBinder(t).bindAll(ctx, []Spec{{line.StatsD, address.Address{Network: "udp", Host: "host.example"}}})
		ended <- err
	}()
	<-asked
	cancel()
	if err := <-ended; !strings.Contains(err.Error(), "canceled") {
		t.Errorf("got %v", err)
	}
}
