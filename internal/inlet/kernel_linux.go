package inlet

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// acceptFD accepts a connection, without waiting; EAGAIN if there is none.
func acceptFD(listening int) (fd int, from unix.Sockaddr, err error) {
	return unix.Accept4(listening, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
}

// keepAlive makes the connections of a listening socket, which inherit its options, find out
// within three minutes that their peers are gone: tcp(7).
func keepAlive(listening int) error {
	for _, o := range []struct{ level, option, value int }{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 8},
	} {
		if err := unix.SetsockoptInt(listening, o.level, o.option, o.value); err != nil {
			return err
		}
	}
	return nil
}

// nap sleeps for d, or until a signal arrives, without giving the processor to another
// goroutine. It returns whether it can.
func nap(d time.Duration) bool {
	t := unix.NsecToTimespec(int64(d))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
	return true
}
