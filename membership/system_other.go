//go:build !linux

package membership

import "time"

var clockStart = time.Now()

// boottime is the monotonic clock, which may stand still while the machine is
// suspended: on a machine that sleeps a claim can outlive its lease.
func boottime() time.Duration { return time.Since(clockStart) }
