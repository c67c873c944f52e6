package outlet

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// A server that accepts connections and closes them costs a line each, where lines are not sent again.
func TestAcceptsAndCloses(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	source := endingSource{newSource(), make(chan Ending, 10)}
	source.left = func() time.Duration { return 0 }
	for i := range 1000 {
		source.put(fmt.Sprintf("n%d:1|c", i))
	}
	stop := source.sendTo(t, "tcp://"+listener.Addr().String())
	const sessions = 3
	for range sessions {
		<-source.ended
	}
	if n := source.gone(); n > sessions+1 { // one that has just begun
		t.Errorf("%d lines are lost in %d sessions", n, sessions)
	}
	stop()
}
