package poll

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	packetBatch = 128     // datagrams that one system call receives at most
	packetRoom  = 8 << 20 // bytes that it has for them
)

// A Message is struct mmsghdr of recvmmsg(2) and sendmmsg(2).
type Message struct {
	unix.Msghdr
	N uint32 // its bytes, which the kernel sets
}

// Packets receive datagrams, many per system call. Their buffer is not on the Go heap, and
// takes memory only as far as datagrams have filled it: a page for each small one.
type Packets struct {
	msgs  [packetBatch]Message
	iovs  [packetBatch]unix.Iovec
	peers [packetBatch]unix.RawSockaddrAny
	buf   []byte
	size  int // of the part for each
	n     int // datagrams of the last recv
}

// divide makes room for datagrams of so many bytes, as many as fit.
func (p *Packets) divide(size int) error {
	if p.buf == nil {
		buf, err := unix.Mmap(-1, 0, packetRoom, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
		if err != nil {
			return fmt.Errorf("map memory to receive datagrams: %w", err)
		}
		p.buf = buf
		runtime.AddCleanup(p, func(buf []byte) { unix.Munmap(buf) }, buf)
	}
	p.size = size
	for i := range Slots(size) {
		p.iovs[i].Base = &p.buf[i*size]
		p.iovs[i].SetLen(size)
		h := &p.msgs[i].Msghdr
		h.Iov, h.Name = &p.iovs[i], (*byte)(unsafe.Pointer(&p.peers[i]))
		h.Namelen = unix.SizeofSockaddrAny
		h.SetIovlen(1)
	}
	return nil
}

// Recv receives up to most datagrams of at most size bytes from s, without waiting, and returns
// how many; EAGAIN when there is none. The runtime does not see the call: it would wake its monitor
// behind each, and take the processor away from those that bring much.
func (p *Packets) Recv(s *Socket, size, most int) (int, error) {
	if p.size != size {
		if err := p.divide(size); err != nil {
			return 0, err
		}
	}
	for i := range p.n {
		p.msgs[i].Namelen = unix.SizeofSockaddrAny // of which the kernel made the length
	}
	n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(s.fd), uintptr(unsafe.Pointer(&p.msgs[0])), uintptr(most), unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if errno != 0 {
		return 0, errno
	}
	p.n = int(n)
	return p.n, nil
}

// Packet returns the i-th datagram of the last recv, valid until the next one, and how many
// bytes were cut off its end.
func (p *Packets) Packet(i int) (data []byte, lost int) {
	n := int(p.msgs[i].N) // as it was sent: MSG_TRUNC
	read := min(n, p.size)
	return p.buf[i*p.size:][:read], n - read
}

// Forget gives back the memory that large datagrams have filled.
func (p *Packets) Forget() { unix.Madvise(p.buf, unix.MADV_DONTNEED) }

// Peer returns the sender of the i-th datagram; "" where it has no address.
func (p *Packets) Peer(i int) string { return name(&p.peers[i], p.msgs[i].Namelen) }
