package inlet

import (
	"testing"

	"golang.org/x/sys/unix"
)

// Older kernels refuse keep-alives of a multipath socket, and nothing would start.
func TestListenersArePlainTCP(t *testing.T) {
	in := start(t, defaults, localTCP)
	if p, err := unix.GetsockoptInt(in.Listeners()[0].socket.FD(), unix.SOL_SOCKET, unix.SO_PROTOCOL); p != unix.IPPROTO_TCP || err != nil {
		t.Errorf("got protocol %d, %v, want %d", p, err, unix.IPPROTO_TCP)
	}
}
