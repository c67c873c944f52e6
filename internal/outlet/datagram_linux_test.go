package outlet

import (
	"net"
	"testing"
	"time"
)

// A datagram that was sent is gone: the socket of one that was refused is not kept open. The line
// in it waits for a server that takes it.
func TestRefusedDatagram(t *testing.T) {
	closed, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	to := closed.LocalAddr().String()
	closed.Close()

	source := endingSource{newSource(), make(chan Ending, 10)}
	source.left = func() time.Duration {
		t.Error("the socket of a session that ended stays open")
		return 0
	}
	stop := source.sendTo(t, "udp://"+to)
	for range 2 {
		source.put("a:1|c")
		if how := <-source.ended; how != Broken {
			t.Errorf("got %v, want %v", how, Broken)
		}
	}
	stop()
	if source.sent != nil {
		t.Errorf("%q count as sent", source.sent)
	}
}
