package poll

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/pulse"
)

// A Poller tells goroutines when their sockets can be read. The runtime's own
// poller is edge-triggered: every packet that arrives while input gathers wakes
// a thread, and wake-ups are what costs. This one is armed once for each wait
// (EPOLLONESHOT), and is itself waited for by way of the runtime's.
type Poller struct {
	epfd int
	file *os.File // epfd, as the runtime polls it

	Pulse pulse.Pulse // of Run

	mu      sync.Mutex
	sockets map[int32]*Socket // by file descriptor
}

func New() (*Poller, error) {
	fd, file, err := newEpoll()
	if err != nil {
		return nil, err
	}
	return &Poller{epfd: fd, file: file, sockets: map[int32]*Socket{}}, nil
}

// newEpoll returns an epoll instance, and as a file, by way of which the runtime polls it.
func newEpoll() (fd int, file *os.File, err error) {
	if fd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return -1, nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // so that the runtime does
		unix.Close(fd)
		return -1, nil, fmt.Errorf("epoll instance: %w", err)
	}
	return fd, os.NewFile(uintptr(fd), "epoll"), nil
}

// waitFor returns when there is what has looks for in the epoll instance, or an error when that
// is closed.
func waitFor(file *os.File, has func() bool) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(uintptr) bool { return has() })
}

// Run wakes those who wait, until the poller is closed.
func (p *Poller) Run() {
	look := func() bool {
		p.Pulse.Work()
		defer p.Pulse.Rest()
		return p.look()
	}
	for waitFor(p.file, look) == nil {
	}
}

// Nap sleeps for d, or until a signal arrives, without giving the processor to another
// goroutine, and wakes those whose sockets can be read then. It returns whether it can.
func (p *Poller) Nap(d time.Duration) bool {
	t := unix.NsecToTimespec(int64(d))
	unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&t)), 0, 0)
	p.look()
	return true
}

// look wakes those whose sockets can be read by now, and says whether there are
// any.
func (p *Poller) look() bool {
	var events [64]unix.EpollEvent
	n, err := unix.EpollWait(p.epfd, events[:], 0)
	if err != nil || n == 0 {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, e := range events[:n] {
		if s := p.sockets[e.Fd]; s != nil {
			wake(s.ready)
		}
	}
	return true
}

func (p *Poller) Close() { p.file.Close() }

// A Socket is a socket that the runtime does not poll. One goroutine reads it.
type Socket struct {
	poller *Poller
	ready  chan struct{} // cap 1: it can be read

	mu sync.Mutex // held to close fd, and by others than the reader to use it
	fd int        // -1: closed
}

// Own takes the descriptor fd.
func (p *Poller) Own(fd int) (*Socket, error) {
	s := &Socket{poller: p, fd: fd, ready: make(chan struct{}, 1)}
	p.mu.Lock()
	p.sockets[int32(fd)] = s
	p.mu.Unlock()
	if err := unix.EpollCtl(p.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Fd: int32(fd), Events: unix.EPOLLONESHOT}); err != nil {
		s.Close()
		return nil, fmt.Errorf("poll a socket: %w", err)
	}
	return s, nil
}

// Wait returns when the socket can be read, or has an error to tell; with the
// error of ctx when that ends; and with os.ErrDeadlineExceeded after limit,
// unless that is 0.
func (s *Socket) Wait(ctx context.Context, limit time.Duration) error {
	once := &unix.EpollEvent{Fd: int32(s.fd), Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT}
	if err := unix.EpollCtl(s.poller.epfd, unix.EPOLL_CTL_MOD, s.fd, once); err != nil {
		return err
	}
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-s.ready:
		return nil
	case <-late:
		return os.ErrDeadlineExceeded
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close closes the descriptor; more than once does no harm.
func (s *Socket) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fd < 0 {
		return
	}
	s.poller.mu.Lock()
	delete(s.poller.sockets, int32(s.fd))
	s.poller.mu.Unlock()
	unix.EpollCtl(s.poller.epfd, unix.EPOLL_CTL_DEL, s.fd, nil) // a passed socket outlives its descriptor
	unix.Close(s.fd)
	s.fd = -1
}

// Accept accepts a connection, without waiting, and returns the address of its peer; EAGAIN
// where none has come.
func (s *Socket) Accept() (fd int, peer string, err error) {
	var from unix.RawSockaddrAny
	length := uint32(unix.SizeofSockaddrAny)
	n, _, errno := unix.Syscall6(unix.SYS_ACCEPT4, uintptr(s.fd), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&length)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if errno != 0 {
		return -1, "", errno
	}
	return int(n), name(&from, length), nil
}

// name writes the address of a socket; "" of one that is bound to nothing.
func name(at *unix.RawSockaddrAny, length uint32) string {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(at)), length)
	if len(raw) <= 2 {
		return "" // what is behind may be another's
	}
	var ip netip.Addr
	switch at.Addr.Family {
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

// wake puts a token into c unless one is there.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
