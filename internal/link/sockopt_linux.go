package link

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long sent data may stay unacknowledged before the
// connection is given up: tcp(7), TCP_USER_TIMEOUT.
func setUserTimeout(fd int, d time.Duration) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, max(1, int(d.Milliseconds())))
}

// boundPauses bounds how long the kernel waits until it asks a peer again that has no room or does
// not answer: TCP_RTO_MAX_MS, since Linux 6.15.
func boundPauses(fd int, d time.Duration) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(d.Milliseconds()))
}

// unsent returns how many bytes of a stream the peer has not acknowledged; of a
// unix socket, how much memory what it has not read takes.
func unsent(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }

// limitUnsent bounds how much the kernel takes that it cannot send yet.
func limitUnsent(fd, bytes int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, bytes)
}

// tick is the most that the kernel's times are from the truth: HZ is 100 or more.
const tick = 10 * time.Millisecond

// tcpClosed is TCP_CLOSE of the kernel's include/net/tcp_states.h.
const tcpClosed = 7

// askTCP asks the kernel about a connection, and says whether it is closed on both sides, or
// was reset; the error may be why. The kernel counts the SYN as a byte.
func askTCP(fd int, peer *Peer) (closed bool, err error) {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return false, err
	}
	peer.Acked = max(info.Bytes_acked, 1) - 1
	peer.Window = int64(info.Snd_wnd) // since Linux 5.4
	silence := time.Duration(info.Last_ack_recv) * time.Millisecond
	peer.Heard = silence + tick
	if info.Unacked > 0 || info.Probes > 0 {
		peer.Silence = silence
	}
	if info.State != tcpClosed {
		return false, nil
	}
	if errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && errno != 0 {
		return true, syscall.Errno(errno)
	}
	return true, nil
}
