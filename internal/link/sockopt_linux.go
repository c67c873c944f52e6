package link

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What can be set of a TCP connection: tcp(7).
const (
	userTimeout = unix.TCP_USER_TIMEOUT  // in ms: so long sent data may stay unacknowledged before it is given up
	maxPause    = unix.TCP_RTO_MAX_MS    // in ms, since Linux 6.15: until a peer is asked again that has no room, or does not answer
	mostUnsent  = unix.TCP_NOTSENT_LOWAT // in bytes: what the kernel takes that it cannot send yet
)

func setTCP(fd, option, value int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, option, value)
}

// unsent returns how many bytes of a stream the peer has not acknowledged; of a
// unix socket, how much memory what it has not read takes.
func unsent(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }

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
	peer.Full = time.Duration(info.Rwnd_limited) * time.Microsecond
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
