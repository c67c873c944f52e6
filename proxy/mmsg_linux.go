package proxy

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// sendBatch is how many datagrams one system call moves.
const sendBatch = 64

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// sendPackets sends datagrams on a connected socket, many in one system call.
type sendPackets struct {
	msgs [sendBatch]mmsghdr
	iovs [sendBatch]unix.Iovec
}

// send sends the datagrams, at most sendBatch, without waiting. It returns how
// many the kernel took, and an error only when it took none.
func (p *sendPackets) send(fd int, datagrams [][]byte) (int, error) {
	for i, d := range datagrams {
		p.iovs[i].Base = &d[0]
		p.iovs[i].SetLen(len(d))
		p.msgs[i].hdr.Iov = &p.iovs[i]
		p.msgs[i].hdr.SetIovlen(1)
	}
	n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&p.msgs[0])), uintptr(len(datagrams)), unix.MSG_DONTWAIT, 0, 0)
	clear(p.iovs[:len(datagrams)])
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
