//go:build !linux

package membership

import (
	"net"
	"time"
)

var clockStart = time.Now()

// boottime is the monotonic clock, which may stand still while the machine is
// suspended: on a machine that sleeps a claim can outlive its lease.
func boottime() time.Duration { return time.Since(clockStart) }

// boundSilence leaves it to gRPC's pings to find out that a peer is gone.
func boundSilence(net.Conn) {}
