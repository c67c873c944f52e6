//go:build linux

package main

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// packets are the buffers of datagrams that one system call moves.
type packets struct {
	msgs []poll.Message
	iovs []unix.Iovec
	bufs [][]byte
}

// newPackets makes buffers for count datagrams of at most size bytes.
func newPackets(count, size int) *packets {
	p := &packets{msgs: make([]poll.Message, count), iovs: make([]unix.Iovec, count), bufs: make([][]byte, count)}
	for i := range count {
		p.bufs[i] = make([]byte, size)
		p.iovs[i].Base = &p.bufs[i][0]
		p.iovs[i].SetLen(size)
		p.msgs[i].Iov = &p.iovs[i]
		p.msgs[i].SetIovlen(1)
	}
	return p
}

// recv receives as many datagrams as are there, and waits while there is none.
func (p *packets) recv(fd int) (int, error) {
	return p.retry(unix.Syscall6, unix.SYS_RECVMMSG, fd, 0, len(p.msgs), unix.MSG_WAITFORONE)
}

// poll receives as many datagrams as are there; EAGAIN when there is none. It
// does not wait, so the Go runtime need not know.
func (p *packets) poll(fd int) (int, error) {
	return p.retry(unix.RawSyscall6, unix.SYS_RECVMMSG, fd, 0, len(p.msgs), unix.MSG_DONTWAIT)
}

// received returns the i-th datagram of the last recv, valid until the next.
func (p *packets) received(i int) []byte { return p.bufs[i][:p.msgs[i].N] }

// setLen says how long the i-th datagram is that will be sent.
func (p *packets) setLen(i, length int) { p.iovs[i].SetLen(length) }

// send sends the first count datagrams on a connected socket. Where its buffer
// is full, it waits.
func (p *packets) send(fd, count int) error {
	for first := 0; first < count; {
		n, err := p.retry(unix.RawSyscall6, unix.SYS_SENDMMSG, fd, first, count-first, unix.MSG_DONTWAIT)
		if err == unix.EAGAIN {
			n, err = p.retry(unix.Syscall6, unix.SYS_SENDMMSG, fd, first, count-first, 0)
		}
		if err != nil {
			return err
		}
		first += n
	}
	return nil
}

// systemCall is unix.Syscall6, or unix.RawSyscall6.
type systemCall func(trap, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, errno unix.Errno)

// retry moves datagrams from the first on, and does it again after a signal.
func (p *packets) retry(call systemCall, trap uintptr, fd, first, count, flags int) (int, error) {
	for {
		n, _, errno := call(trap, uintptr(fd), uintptr(unsafe.Pointer(&p.msgs[first])), uintptr(count), uintptr(flags), 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// udpSocket makes a blocking UDP socket on 127.0.0.1.
func udpSocket() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.Bind(fd, loopback(0)); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// receiveBuffer is how many bytes are asked for, as the daemon does.
const receiveBuffer = 8 << 20

// loopback is a port of 127.0.0.1.
func loopback(port int) *unix.SockaddrInet4 {
	return &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}
}

// localPort returns the port that the kernel gave to a socket.
func localPort(fd int) (int, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, err
	}
	in, ok := sa.(*unix.SockaddrInet4)
	if !ok {
		return 0, errors.New("not an IPv4 socket")
	}
	return in.Port, nil
}
