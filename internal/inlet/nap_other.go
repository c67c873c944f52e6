//go:build unix && !linux

package inlet

import "time"

// nap would sleep without giving the processor to another goroutine; here it
// does nothing.
func nap(time.Duration) bool { return false }
