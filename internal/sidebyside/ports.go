package sidebyside

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// FreePort returns a port on which nobody listens at 127.0.0.1, by TCP or UDP.
// It is not one that the kernel would give to an outgoing connection before the
// test's server takes it, or an embedded etcd to itself (internal/devetcd), and not one
// that another test of this process got.
func FreePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		port := 20_000 + rand.IntN(10_000)
		if _, given := givenPorts.LoadOrStore(port, true); !given && isFree(port) {
			return port
		}
	}
	t.Fatal("no free port in a hundred tries")
	return 0
}

var givenPorts sync.Map // of FreePort

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
