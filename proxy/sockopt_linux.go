package proxy

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// growReceiveBuffer asks for a receive buffer of so many bytes, past the limit
// net.core.rmem_max where we may, and returns what was granted, in the unit of
// that limit.
func growReceiveBuffer(fd, bytes int) (granted int, err error) {
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) != nil {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes); err != nil {
			return 0, err
		}
	}
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
	return n / 2, err // the kernel doubles what it is asked for: socket(7)
}

// kernelDrops returns how many datagrams the kernel has dropped at a socket
// because its receive buffer was full (SK_MEMINFO_DROPS of sock_diag.h).
func kernelDrops(fd int) (uint64, error) {
	const drops, fields = 8, 9
	var info [fields]uint32
	size := uint32(unsafe.Sizeof(info))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_MEMINFO,
		uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return 0, errno
	}
	return uint64(info[drops]), nil
}

// setUserTimeout bounds how long sent data may stay unacknowledged before the
// connection is given up: tcp(7), TCP_USER_TIMEOUT.
func setUserTimeout(fd int, d time.Duration) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}

// unsent returns how many bytes of a stream the peer has not acknowledged.
func unsent(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }

// limitUnsent bounds how much the kernel takes that it cannot send yet.
func limitUnsent(fd, bytes int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
}

// bytesAcked returns how many bytes of a stream the peer's kernel has
// acknowledged. The kernel counts the SYN as one.
func bytesAcked(fd int) (uint64, error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil || info.Bytes_acked == 0 {
		return 0, err
	}
	return info.Bytes_acked - 1, nil
}
