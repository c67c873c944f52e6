package proxy

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// growReceiveBuffer asks for a receive buffer of so many bytes, past the limit
// net.core.rmem_max where we may, and returns what the socket has then, in the
// unit of that limit. A passed socket may have more than we may ask for: it keeps
// that.
func growReceiveBuffer(fd, bytes int) (granted int, err error) {
	has, err := bufferSize(fd)
	if err != nil || has >= bytes {
		return has, err
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, bytes) == nil {
		return bufferSize(fd)
	}
	if most, err := mostGranted(bytes); err != nil || most <= has {
		return has, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, bytes); err != nil {
		return 0, err
	}
	return bufferSize(fd)
}

// bufferSize returns the size of a socket's receive buffer. The kernel doubles what
// it is asked for: socket(7).
func bufferSize(fd int) (bytes int, err error) {
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
	return bufferSize(fd)
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
