package inlet

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// packetBatch is how many datagrams one system call moves.
const packetBatch = 128

// maxPacket is the longest datagram that is read whole. UDP has none longer.
const maxPacket = 64 << 10

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// packets receives datagrams, many in one system call. Its buffer is not of
// the Go heap, and takes memory only as far as datagrams have filled it: a page
// for each of the small ones.
type packets struct {
	msgs  [packetBatch]mmsghdr
	iovs  [packetBatch]unix.Iovec
	peers [packetBatch]unix.RawSockaddrAny
	buf   []byte
}

func newPackets() (*packets, error) {
	buf, err := unix.Mmap(-1, 0, packetBatch*maxPacket, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("map memory to receive datagrams: %w", err)
	}
	p := &packets{buf: buf}
	for i := range p.msgs {
		p.iovs[i].Base = &p.buf[i*maxPacket]
		p.iovs[i].SetLen(maxPacket)
		h := &p.msgs[i].hdr
		h.Iov, h.Name = &p.iovs[i], (*byte)(unsafe.Pointer(&p.peers[i]))
		h.SetIovlen(1)
	}
	return p, nil
}

// recv receives up to packetBatch datagrams, without waiting, and returns how
// many; EAGAIN when there is none.
func (p *packets) recv(fd int) (int, error) {
	for i := range p.msgs {
		p.msgs[i].hdr.Namelen = unix.SizeofSockaddrAny
	}
	n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&p.msgs[0])), packetBatch, unix.MSG_DONTWAIT, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}

// packet returns the i-th datagram of the last recv, valid until the next, and
// how many bytes of its end were cut off.
func (p *packets) packet(i int) (data []byte, lost int) {
	m := &p.msgs[i]
	return p.buf[i*maxPacket:][:m.n], int(m.hdr.Flags & unix.MSG_TRUNC)
}

// peer returns the sender of the i-th datagram; "" where it has no address.
func (p *packets) peer(i int) string {
	sa := &p.peers[i]
	switch sa.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), swap16(in.Port)).String()
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(sa))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), swap16(in.Port)).String()
	case unix.AF_UNIX:
		un := (*unix.RawSockaddrUnix)(unsafe.Pointer(sa))
		return unix.ByteSliceToString(unsafe.Slice((*byte)(unsafe.Pointer(&un.Path)), len(un.Path)))
	}
	return ""
}

// swap16 turns a port in network byte order, as stored, into a number.
func swap16(v uint16) uint16 {
	b := (*[2]byte)(unsafe.Pointer(&v))
	return uint16(b[0])<<8 | uint16(b[1])
}
