package inlet

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
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

const (
	packetBatch = 128     // datagrams that one system call receives at most
	packetRoom  = 8 << 20 // bytes that it has for them
)

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// packets receives datagrams, many per system call. Its buffer is not on the Go heap, and
// takes memory only as far as datagrams have filled it: a page for each small one.
type packets struct {
	msgs  [packetBatch]mmsghdr
	iovs  [packetBatch]unix.Iovec
	peers [packetBatch]unix.RawSockaddrAny
	buf   []byte
	size  int // of the part for each
	n     int // datagrams of the last recv
}

func newPackets() (*packets, error) {
	buf, err := unix.Mmap(-1, 0, packetRoom, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory to receive datagrams: %w", err)
	}
	p := &packets{buf: buf}
	runtime.AddCleanup(p, func(buf []byte) { unix.Munmap(buf) }, buf)
	return p, nil
}

// divide makes room for datagrams of so many bytes, as many as fit.
func (p *packets) divide(size int) {
	p.size = size
	for i := range slots(size) {
		p.iovs[i].Base = &p.buf[i*size]
		p.iovs[i].SetLen(size)
		h := &p.msgs[i].hdr
		h.Iov, h.Name = &p.iovs[i], (*byte)(unsafe.Pointer(&p.peers[i]))
		h.Namelen = unix.SizeofSockaddrAny
		h.SetIovlen(1)
	}
}

// recv receives up to most datagrams of at most size bytes, without waiting, and returns how
// many; EAGAIN when there is none. The runtime does not see the call: it would wake its monitor
// behind each, and take the processor away from those that bring much.
func (p *packets) recv(fd, size, most int) (int, error) {
	if p.size != size {
		p.divide(size)
	}
	for i := range p.n {
		p.msgs[i].hdr.Namelen = unix.SizeofSockaddrAny // of which the kernel made the length
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&p.msgs[0])), uintptr(most), unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	p.n = int(n)
	return p.n, nil
}

// packet returns the i-th datagram of the last recv, valid until the next one, and how many
// bytes were cut off its end.
func (p *packets) packet(i int) (data []byte, lost int) {
	n := int(p.msgs[i].n) // as it was sent: MSG_TRUNC
	read := min(n, p.size)
	return p.buf[i*p.size:][:read], n - read
}

// forget gives back the memory that large datagrams have filled.
func (p *packets) forget() { unix.Madvise(p.buf, unix.MADV_DONTNEED) }

// peer returns the sender of the i-th datagram; "" where it has no address.
func (p *packets) peer(i int) string {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&p.peers[i])), p.msgs[i].hdr.Namelen)
	if len(raw) <= 2 {
		return "" // a sender that is bound to nothing: what is there is another's
	}
	var ip netip.Addr
	switch p.peers[i].Addr.Family {
	case unix.AF_INET:
		ip, _ = netip.AddrFromSlice(raw[4:8])
	case unix.AF_INET6:
		ip, _ = netip.AddrFromSlice(raw[8:24])
	default:
		if path := raw[2:]; path[0] != 0 {
			return unix.ByteSliceToString(path)
		}
		return "@" + string(raw[3:]) // abstract
	}
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(raw[2:])).String()
}
