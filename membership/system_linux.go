package membership

import (
	"time"

	"golang.org/x/sys/unix"
)

// boottime reads CLOCK_BOOTTIME, which goes on while the machine is suspended;
// time.Now's monotonic part does not. etcd's side of a lease goes on too.
// https://man7.org/linux/man-pages/man2/clock_gettime.2.html
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic("membership: clock_gettime(CLOCK_BOOTTIME): " + err.Error()) // only before Linux 2.6.39
	}
	return time.Duration(ts.Nano())
}
