package inlet

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// packetBatch is how many datagrams one system call receives at most, and packetRoom how much
// it has for them, in bytes.
const (
	packetBatch = 128
	packetRoom  = 8 << 20
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
}

func newPackets() (*packets, error) {
	buf, err := unix.Mmap(-1, 0, packetRoom, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory to receive datagrams: %w", err)
	}
	return &packets{buf: buf}, nil
}

// divide makes room for datagrams of so many bytes, as many as fit.
func (p *packets) divide(size int) {
	if p.size == size {
		return
	}
	p.size = size
	for i := range slots(size) {
		p.iovs[i].Base = &p.buf[i*size]
		p.iovs[i].SetLen(size)
		h := &p.msgs[i].hdr
		h.Iov, h.Name = &p.iovs[i], (*byte)(unsafe.Pointer(&p.peers[i]))
		h.SetIovlen(1)
	}
}

// recv receives up to most datagrams, without waiting, and returns how many; EAGAIN
// when there is none. The runtime does not see the call: it would wake its monitor
// behind each, and take the processor away from those that bring much.
func (p *packets) recv(fd, most int) (int, error) {
	for i := range most {
		p.msgs[i].hdr.Namelen = unix.SizeofSockaddrAny
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&p.msgs[0])), uintptr(most), unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
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
	sa, length := &p.peers[i], int(p.msgs[i].hdr.Namelen)
	if length < unix.SizeofSockaddrUnix-len(unix.RawSockaddrUnix{}.Path) {
		return "" // a sender that is bound to nothing: what is there is another's
	}
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swap16(in.Port)).String()
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), swap16(in.Port)).String()
	case unix.AF_UNIX:
		un := (*unix.RawSockaddrUnix)(unsafe.Pointer(sa))
		path := unsafe.Slice((*byte)(unsafe.Pointer(&un.Path)), len(un.Path))[:length-int(unsafe.Offsetof(un.Path))]
		if len(path) > 0 && path[0] == 0 { // abstract
			return "@" + string(path[1:])
		}
		return unix.ByteSliceToString(path)
	}
	return ""
}

// swap16 turns a port in network byte order, as stored, into a number.
func swap16(v uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&v))
	return uint16(b[0])<<8 | uint16(b[1])
}
