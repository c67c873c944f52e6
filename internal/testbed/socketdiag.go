//go:build linux

package testbed

import (
	"encoding/binary"
	"fmt"
	"net"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A tcpSocket is what the kernel says of one, in bytes.
type tcpSocket struct{ inode, unread, read int }

// askOfSocket asks the kernel for the IPv4 socket that is connected from local to
// remote: sock_diag(7). /proc/net/tcp has the same for a walk through the whole table.
func askOfSocket(local, remote net.Addr) (s tcpSocket, err error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return s, fmt.Errorf("ask for sockets: %w", err)
	}
	defer unix.Close(fd)

	// struct nlmsghdr, and struct inet_diag_req_v2 behind it
	request := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+56)
	header := (*unix.NlMsghdr)(unsafe.Pointer(&request[0]))
	*header = unix.NlMsghdr{Len: uint32(cap(request)), Type: unix.SOCK_DIAG_BY_FAMILY, Flags: unix.NLM_F_REQUEST}
	const noCookie = ^uint32(0)
	from, to := local.(*net.TCPAddr), remote.(*net.TCPAddr)
	const infoToo, infoType = 1 << 1, 2 // INET_DIAG_INFO
	request = append(request, unix.AF_INET, unix.IPPROTO_TCP, infoToo, 0)
	request = binary.NativeEndian.AppendUint32(request, ^uint32(0)) // states
	request = binary.BigEndian.AppendUint16(request, uint16(from.Port))
	request = binary.BigEndian.AppendUint16(request, uint16(to.Port))
	for _, ip := range []net.IP{from.IP.To4(), to.IP.To4()} {
		request = append(append(request, ip...), make([]byte, 12)...)
	}
	for _, n := range []uint32{0, noCookie, noCookie} { // interface, cookie
		request = binary.NativeEndian.AppendUint32(request, n)
	}
	if err := unix.Sendto(fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return s, fmt.Errorf("ask for a socket: %w", err)
	}

	answer := make([]byte, 4096)
	n, _, err := unix.Recvfrom(fd, answer, 0)
	if err != nil {
		return s, fmt.Errorf("ask for a socket: %w", err)
	}
	const messageSize = 72 // of struct inet_diag_msg
	kind, body := binary.NativeEndian.Uint16(answer[4:]), answer[unix.SizeofNlMsghdr:max(n, unix.SizeofNlMsghdr)]
	number := func(at int) int { return int(binary.NativeEndian.Uint32(body[at:])) }
	if kind != unix.SOCK_DIAG_BY_FAMILY || len(body) < messageSize {
		return s, fmt.Errorf("ask for the socket from %v to %v: %w", local, remote, unix.Errno(-int32(number(0))))
	}
	s = tcpSocket{unread: number(56), inode: number(68)}
	const stateAt, listens = 1, 10 // a socket that listens is found where no other is
	for rest := body[messageSize:]; body[stateAt] != listens && len(rest) >= unix.SizeofRtAttr; {
		size := int(binary.NativeEndian.Uint16(rest))
		if binary.NativeEndian.Uint16(rest[2:]) == infoType {
			info := make([]byte, unix.SizeofTCPInfo)
			copy(info, rest[unix.SizeofRtAttr:size])
			s.read = int((*unix.TCPInfo)(unsafe.Pointer(&info[0])).Bytes_received) - s.unread
			return s, nil
		}
		rest = rest[min((size+3)&^3, len(rest)):]
	}
	return s, fmt.Errorf("the socket from %v to %v: %w", local, remote, unix.ENOENT) // it listens, or has ended
}
