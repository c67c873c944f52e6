package testbed

import (
	"context"
	"net"
	"os"
	"sync/atomic"
	"testing"
)

func TestMain(m *testing.M) {
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: dialResolver}
	os.Exit(main(m))
}

// resolvesHere is asked for the names that this process looks up; nil: the machine's
// servers are.
var resolvesHere atomic.Pointer[nameServer]

func dialResolver(ctx context.Context, network, addr string) (net.Conn, error) {
	if s := resolvesHere.Load(); s != nil {
		network, addr = "udp", s.addr
	}
	return new(net.Dialer).DialContext(ctx, network, addr)
}
