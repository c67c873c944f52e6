package sidebyside

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"sync"
	"testing"
)

// FreePort returns a port on which nobody listens at 127.0.0.1, by TCP or UDP.
// It is not one that the kernel would give to an outgoing connection before the
// test's server takes it, or an embedded etcd to itself (internal/devetcd), and not one
// that another test got, of this process or of one that runs beside it.
func FreePort(t testing.TB) int {
	t.Helper()
	port, err := Port()
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// Port is FreePort for what is no test.
func Port() (int, error) {
	for range 100 {
		if port := 20_000 + rand.IntN(10_000); isFree(port) && reserve(port) {
			return port, nil
		}
	}
	return 0, errors.New("no free port in a hundred tries")
}

var reserved sync.Map // the listeners that reserve ports, until the process ends

// reserve says whether no other test has reserved a port. Processes know of each other by the
// abstract names of unix sockets, which end with them.
func reserve(port int) bool {
	var l net.Listener
	if runtime.GOOS == "linux" {
		var err error
		if l, err = net.Listen("unix", fmt.Sprintf("@prefixproxy-test-port-%d", port)); err != nil {
			return false
		}
	}
	_, given := reserved.LoadOrStore(port, l)
	return !given
}

func isFree(port int) bool {
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	tcp.Close()
	udp, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	udp.Close()
	return true
}
