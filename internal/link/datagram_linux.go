package link

import (
	"errors"
	"net"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/poll"
)

const (
	// sendBatch is how many datagrams one system call sends.
	sendBatch = 64

	// fullPause is how long to wait for a network device that is too busy, or after our own host's
	// packet filter has dropped a datagram, which it may do to a few: by a limit of their rate, or
	// where it can track no more connections. If it drops maxFiltered in a row, it drops all.
	fullPause   = 10 * time.Millisecond
	maxFiltered = 100

	// What comes late comes all at once, and the server's kernel has room for 92 full datagrams
	// where nobody has changed it (net.core.rmem_default). So narrowBatch are sent at once, with
	// a pause after each, for a second: then it's no outage, but too much.
	narrowBatch   = 8
	narrowPause   = 4 * time.Millisecond
	narrowBatches = 250
)

// A datagram is a connected UDP or unixgram socket, which the runtime does not
// poll: it would wake a thread for every datagram that has left.
type datagram struct {
	oneWay
	reports  *poll.Errors // what the network reports
	max      int          // bytes of payload
	isNarrow bool         // what is written comes late
	pauses   int          // still to be made then
	filtered int          // in a row, by our own host's packet filter
	sent     uint64
	acked    uint64 // sent, when the network had reported nothing yet

	mu  sync.Mutex // held to close fd, and by Watch to use it
	fd  int        // -1: closed
	err error      // what the network has reported

	msgs [sendBatch]poll.Message // scratch
	iovs [sendBatch]unix.Iovec
}

// newDatagram takes a connection.
func newDatagram(conn net.Conn, network string, size int) (l *datagram, err error) {
	l = &datagram{max: size}
	if l.fd, err = poll.Detach(conn.(poll.Conn)); err != nil {
		return nil, err
	}
	if network == "udp" {
		err = setUDP(l.fd)
	}
	if err == nil {
		l.reports, err = poll.ErrorsOf(l.fd)
	}
	if err != nil {
		unix.Close(l.fd)
		return nil, err
	}
	return l, nil
}

// setUDP asks the kernel for the errors that the network reports, a host that can't be reached
// among them (ip(7), IP_RECVERR); and lets routers cut up a datagram that is too long for the next
// part of the way (IP_MTU_DISCOVER): they would drop it, and not all say so. IPv6's never cut.
func setUDP(fd int) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	}
	return errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_RECVERR, 1),
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT))
}

func (l *datagram) Narrow(is bool) {
	if is != l.isNarrow {
		l.isNarrow, l.pauses = is, narrowBatches
	}
}

func (l *datagram) Write(lines []byte, limit time.Duration) (int, error) {
	most := sendBatch
	if l.isNarrow && l.pauses > 0 {
		most = narrowBatch
		l.pauses--
		defer time.Sleep(narrowPause)
	}
	n, err := l.send(lines, most)
	if errors.Is(err, syscall.EMSGSIZE) {
		n, err = l.send(lines, most) // it may have been said of the path, about an earlier one
	}
	switch l.sent += uint64(n); {
	case errors.Is(err, syscall.EMSGSIZE):
		return 0, ErrTooLong
	case errors.Is(err, syscall.EAGAIN):
		return 0, l.poll(unix.POLLOUT, limit)
	case errors.Is(err, syscall.ENOBUFS): // our own device's queue is full (IP_RECVERR tells)
		return 0, l.poll(0, min(limit, fullPause))
	case errors.Is(err, syscall.EPERM) && l.filtered < maxFiltered:
		l.filtered++
		return 0, l.poll(0, min(limit, fullPause))
	}
	l.filtered = 0
	return n, err
}

// send sends from lines so many datagrams at most, without waiting. It returns how many bytes the
// kernel took, and an error only when it took none.
func (l *datagram) send(lines []byte, most int) (n int, err error) {
	count := 0
	for ; len(lines) > 0 && count < most; count++ {
		end := PacketEnd(lines, l.max)
		l.iovs[count].Base = &lines[0]
		l.iovs[count].SetLen(end)
		l.msgs[count].Iov = &l.iovs[count]
		l.msgs[count].SetIovlen(1)
		lines = lines[end:]
	}
	defer clear(l.iovs[:count])
	taken, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(l.fd), uintptr(unsafe.Pointer(&l.msgs[0])), uintptr(count), unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	for _, v := range l.iovs[:taken] {
		n += int(v.Len)
	}
	return n, nil
}

// poll waits until the socket is ready for something, or has an error to tell.
func (l *datagram) poll(events int16, limit time.Duration) error {
	_, err := unix.Poll([]unix.PollFd{{Fd: int32(l.fd), Events: events}}, max(1, int(limit.Milliseconds())))
	if errors.Is(err, syscall.EINTR) {
		return nil
	}
	return err
}

// Watch returns when the network reports something about the server.
func (l *datagram) Watch() ([]byte, error) {
	for l.reports.Wait() == nil {
		if err := l.error(); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// error returns what the network has reported about the server; nil: nothing. A report is the
// socket's error, too; but sendmmsg(2) takes that, and does not tell, unless it is met by the first
// datagram; and the queue of reports may be full.
func (l *datagram) error() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fd < 0 || l.err != nil || !poll.HasError(l.fd) {
		return l.err
	}
	n, err := unix.GetsockoptInt(l.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	for errno, more := syscall.Errno(n), true; more; errno, more = report(l.fd) {
		if l.err == nil && errno != 0 && errno != syscall.EMSGSIZE { // that is about the path
			l.err = errno
		}
	}
	return l.err
}

// report takes a report of the network out of a socket's queue; false: there is none.
func report(fd int) (errno syscall.Errno, ok bool) {
	var b, oob [128]byte
	_, n, _, _, err := unix.Recvmsg(fd, b[:], oob[:], unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
	if err != nil {
		return 0, false
	}
	_, data, _, err := unix.ParseOneSocketControlMessage(oob[:n])
	if err == nil && len(data) >= int(unsafe.Sizeof(unix.SockExtendedErr{})) {
		errno = syscall.Errno((*unix.SockExtendedErr)(unsafe.Pointer(&data[0])).Errno)
	}
	return errno, true
}

// Look: a datagram that was sent is gone, unless it was refused by now.
func (l *datagram) Look() (Peer, error) {
	err := l.error()
	if err == nil {
		l.acked = l.sent
	}
	return Peer{Acked: l.acked}, err
}

func (l *datagram) Close() {
	l.reports.Close()
	l.mu.Lock()
	defer l.mu.Unlock()
	unix.Close(l.fd)
	l.fd = -1
}

func (l *datagram) Reset() { l.Close() }
