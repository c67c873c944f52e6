package inlet

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// nap sleeps for d, or until a signal arrives, without giving the processor to another
// goroutine. It returns whether it can.
func nap(d time.Duration) bool {
	t := unix.NsecToTimespec(int64(d))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
	return true
}
