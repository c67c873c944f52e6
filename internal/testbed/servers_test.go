package testbed

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// The servers work as the other tests take for granted, without the proxy.
func TestServers(t *testing.T) {
	t.Parallel()
	carbon := newCarbonCache(t)
	carbon.Start(t)
	statsd := startPlainStatsD(t, carbon.Addr)
	now := time.Now().Unix()
	send(t, "tcp", carbon.Addr, fmt.Sprintf("direct.carbon 42.5 %d\n", now))
	send(t, "udp", statsd.Addr, "direct.udp:2|c\ndirect.udp:3|c\n")
	send(t, "tcp", statsd.Addr, "direct.tcp:7|c\n")
	carbon.AwaitValue(t, now, 42.5, "direct", "carbon")
	carbon.AwaitSum(t, 5, "direct", "udp", "count")
	carbon.AwaitSum(t, 7, "direct", "tcp", "count")
}

// send opens a connection, sends text at once, and closes it.
func send(t testing.TB, network, addr, text string) {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}
