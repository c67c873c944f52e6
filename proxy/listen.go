package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/user"
	"strconv"
	"syscall"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// receiveBuffer is what a datagram socket asks of the kernel, in bytes.
const receiveBuffer = 8 << 20

// smallBuffer is the receive buffer below which input must not gather long: an
// ordinary burst would overrun it.
const smallBuffer = 1 << 20

// A listener is one bound socket. It is closed by the reader that runs on it.
type listener struct {
	proto   line.Protocol
	address Address // as configured, with the host and the port that were taken

	packets net.PacketConn // of a datagram socket
	stream  net.Listener   // of a stream socket

	receiveBuffer int // bytes granted; 0 for streams
}

func (l *listener) close() {
	if l.stream != nil {
		l.stream.Close() // unlinks a unix socket
		return
	}
	l.packets.Close()
	if l.address.isUnix() {
		os.Remove(l.address.Path)
	}
}

// raw gives the file descriptor of a datagram socket.
func (l *listener) raw() (syscall.RawConn, error) { return l.packets.(syscall.Conn).SyscallConn() }

// bindAll binds the sockets of all addresses, or none.
func bindAll(p line.Protocol, addrs []Address) ([]*listener, error) {
	var bound []*listener
	for _, a := range addrs {
		ls, err := bind(p, a)
		if err != nil {
			closeAll(bound)
			return nil, fmt.Errorf("listen for %s on %s: %w", p, a, err)
		}
		bound = append(bound, ls...)
	}
	return bound, nil
}

func closeAll(ls []*listener) {
	for _, l := range ls {
		l.close()
	}
}

// bind binds the sockets of one address: localhost has one a family.
func bind(p line.Protocol, a Address) ([]*listener, error) {
	switch {
	case a.isUnix():
		l, err := bindUnix(p, a)
		return []*listener{l}, err
	case a.Host == "localhost":
		return bindLocalhost(p, a)
	}
	l, err := bindInet(p, a)
	return []*listener{l}, err
}

// bindLocalhost binds 127.0.0.1 and ::1 to one port. A family that the host
// lacks is passed over.
func bindLocalhost(p line.Protocol, a Address) ([]*listener, error) {
	v4, v6 := a, a
	v4.Host, v6.Host = "127.0.0.1", "::1"
	for attempt := 0; ; attempt++ {
		l4, err4 := bindInet(p, v4)
		if err4 != nil && !isMissingFamily(err4) {
			return nil, err4
		}
		if err4 == nil {
			v6.Port = l4.address.Port
		}
		l6, err6 := bindInet(p, v6)
		switch {
		case err4 == nil && err6 == nil:
			return []*listener{l4, l6}, nil
		case err4 == nil && isMissingFamily(err6):
			return []*listener{l4}, nil
		case err4 != nil && err6 == nil:
			return []*listener{l6}, nil
		case err4 != nil:
			return nil, err4
		}
		l4.close()
		if a.Port != 0 || attempt == 10 {
			return nil, err6
		}
		v6.Port = 0 // the port that was free for IPv4 is taken for IPv6: another
	}
}

func isMissingFamily(err error) bool {
	return errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT)
}

func bindInet(p line.Protocol, a Address) (*listener, error) {
	l := &listener{proto: p, address: a}
	if a.Network == "tcp" {
		stream, err := net.Listen("tcp", a.hostPort())
		if err != nil {
			return nil, err
		}
		l.stream = stream
		l.takePort(stream.Addr())
		return l, nil
	}
	packets, err := net.ListenPacket("udp", a.hostPort())
	if err != nil {
		return nil, err
	}
	l.packets = packets
	l.takePort(packets.LocalAddr())
	return l, l.setReceiveBuffer()
}

// takePort notes the port that the kernel gave.
func (l *listener) takePort(addr net.Addr) {
	if _, port, err := net.SplitHostPort(addr.String()); err == nil {
		l.address.Port, _ = strconv.Atoi(port)
	}
}

// setReceiveBuffer asks for a large buffer and notes what was granted.
func (l *listener) setReceiveBuffer() error {
	raw, err := l.raw()
	if err != nil {
		return err
	}
	var granted int
	ctlErr := raw.Control(func(fd uintptr) { granted, err = growReceiveBuffer(int(fd), receiveBuffer) })
	l.receiveBuffer = granted
	return errors.Join(err, ctlErr)
}

func bindUnix(p line.Protocol, a Address) (*listener, error) {
	if err := removeStale(a); err != nil {
		return nil, err
	}
	l := &listener{proto: p, address: a}
	var err error
	if a.Network == "unix" {
		l.stream, err = net.Listen("unix", a.Path)
	} else {
		l.packets, err = net.ListenPacket("unixgram", a.Path)
	}
	if err != nil {
		return nil, err
	}
	if l.packets != nil {
		err = l.setReceiveBuffer()
	}
	if err = errors.Join(err, setAccess(a)); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

// removeStale removes a socket that a dead process left behind. One on which
// somebody listens stays, and is an error.
func removeStale(a Address) error {
	info, err := os.Lstat(a.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s exists and is no socket", a.Path)
	}
	conn, err := net.Dial(a.Network, a.Path)
	if err == nil {
		conn.Close()
		return fmt.Errorf("%s: %w", a.Path, syscall.EADDRINUSE)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(a.Path)
}

// setAccess gives a unix socket its mode and group.
func setAccess(a Address) error {
	if a.Group != "" {
		gid, err := groupID(a.Group)
		if err != nil {
			return err
		}
		if err := os.Chown(a.Path, -1, gid); err != nil {
			return err
		}
	}
	if a.Mode != 0 {
		return os.Chmod(a.Path, os.FileMode(a.Mode))
	}
	return nil
}

func groupID(name string) (int, error) {
	if gid, err := strconv.Atoi(name); err == nil {
		return gid, nil
	}
	g, err := user.LookupGroup(name)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(g.Gid)
}

// rawReader reads from a file descriptor through the runtime's poller, with
// the buffer found only once there is something to read.
type rawReader struct {
	raw syscall.RawConn
}

// wait calls read until it does not return EAGAIN, and waits for input in
// between. It ends with the deadline of the socket.
func (r rawReader) wait(read func(fd int) (int, error)) (n int, err error) {
	waitErr := r.raw.Read(func(fd uintptr) bool {
		n, err = read(int(fd))
		return !errors.Is(err, syscall.EAGAIN)
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return n, err
}

// poll calls read once and does not wait.
func (r rawReader) poll(read func(fd int) (int, error)) (n int, err error) {
	ctlErr := r.raw.Control(func(fd uintptr) { n, err = read(int(fd)) })
	if ctlErr != nil {
		return 0, ctlErr
	}
	return n, err
}

// isPast says whether ctx has ended: the error of a read that was interrupted
// because of it is no error.
func isPast(ctx context.Context) bool { return ctx.Err() != nil }

// netAddr is the address of the socket.
func (l *listener) netAddr() net.Addr {
	if l.stream != nil {
		return l.stream.Addr()
	}
	return l.packets.LocalAddr()
}

// isPrivate says whether only this host can reach the socket.
func (l *listener) isPrivate() bool {
	addr, err := netip.ParseAddrPort(l.netAddr().String())
	return err != nil || addr.Addr().IsLoopback()
}

// kernelDrops returns how many datagrams the kernel has dropped at the socket.
func (l *listener) kernelDrops() (n uint64, err error) {
	if l.address.Network != "udp" {
		return 0, errors.ErrUnsupported
	}
	raw, err := l.raw()
	if err != nil {
		return 0, err
	}
	ctlErr := raw.Control(func(fd uintptr) { n, err = kernelDrops(int(fd)) })
	return n, errors.Join(err, ctlErr)
}
