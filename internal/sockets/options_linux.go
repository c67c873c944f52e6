package sockets

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Grow asks for a receive buffer of so many bytes, past the limit
// net.core.rmem_max where we may, and returns what the socket has then, in the
// unit of that limit. A passed socket may have more than we may ask for: it keeps
// that.
func Grow(fd, bytes int) (granted int, err error) {
	has, err := size(fd)
	if err != nil || has >= bytes {
		return has, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
		return size(fd)
	}
	if most, err := mostGranted(bytes); err != nil || most <= has {
		return has, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes); err != nil {
		return 0, err
	}
	return size(fd)
}

// size returns the size of a socket's receive buffer. The kernel doubles what
// it is asked for: socket(7).
func size(fd int) (bytes int, err error) {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return n / 2, err
}

// mostGranted returns how much a new socket gets that asks for so many bytes: the
// limit may not be readable here.
func mostGranted(bytes int) (int, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes); err != nil {
		return 0, err
	}
	return size(fd)
}

// Drops returns how many datagrams the kernel has dropped at a socket
// because its receive buffer was full (SK_MEMINFO_DROPS of sock_diag.h).
func Drops(fd int) (uint64, error) {
	const drops, fields = 8, 9
	var info [fields]uint32
	length := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&length)), 0)
	if errno != 0 {
		return 0, errno
	}
	return uint64(info[drops]), nil
}

// KeepAlive makes the connections of a listening socket, which inherit its options, find out
// within three minutes that their peers are gone: tcp(7).
func KeepAlive(listening int) error {
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
