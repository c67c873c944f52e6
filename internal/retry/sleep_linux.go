package retry

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// SleepLong is Sleep, of which the process has less to do when it is over. The runtime sleeps until
// its next timer in epoll_wait(2), which may take a thousandth longer; meanwhile its monitor, which
// is there in time, naps for 20 µs again and again: about 20 times after 2.5 s. It knows nothing of
// a timerfd_create(2). (Nor does testing/synctest.)
func SleepLong(ctx context.Context, d time.Duration) bool {
	if d < time.Millisecond {
		return Sleep(ctx, d)
	}
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
	if err != nil { // out of descriptors
		return Sleep(ctx, d)
	}
	f := os.NewFile(uintptr(fd), "timer")
	defer f.Close()
	if unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil) != nil {
		return Sleep(ctx, d)
	}
	defer context.AfterFunc(ctx, func() { f.SetReadDeadline(time.Unix(1, 0)) })()
	var expired [8]byte
	if _, err := f.Read(expired[:]); err != nil && ctx.Err() == nil {
		return Sleep(ctx, d)
	}
	return ctx.Err() == nil
}
