package proxy

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// Bounds of connecting and of sending.
const (
	dialTimeout = 2 * time.Second

	// probeTimeout is how long a UDP upstream has to refuse an empty datagram.
	probeTimeout = 50 * time.Millisecond

	// What a stream of StatsD may keep unsent in the kernel, where no gate
	// reaches it any more: this many bytes, for this long, which is less than
	// what a lease of 5 s has left at its horizon.
	statsdSendBuffer = 64 << 10
	statsdStall      = 1500 * time.Millisecond

	// sendPoll is how long a full send buffer is waited for, in ms.
	sendPoll = 10

	// carbonStall is longer, so that a Graphite that pauses is not reset.
	carbonStall = 15 * time.Second

	// backlogUnsent is how much the kernel takes that it cannot send yet, in
	// bytes, while there is a backlog: what waits there, no live line can
	// overtake. Otherwise it takes what it likes: to be woken when it has room
	// costs more than the write.
	backlogUnsent = 256 << 10

	// closeWait is how long a peer that has acknowledged all has to read it and
	// close.
	closeWait = 500 * time.Millisecond
)

// A link is a connection to an upstream. One goroutine sends on it and closes
// it; watch alone may run beside.
type link struct {
	index    int    // of the upstream in the failover list
	upstream string // the upstream, as configured
	resolved string // address of the peer
	written  uint64 // bytes that the kernel took, of a stream that must be acknowledged
	short    bool   // it takes little that it can't send yet
	partial  bool   // it has taken a part of what it was to take, up to the middle of a line

	interrupted atomic.Bool

	out  io.Writer    // of a stream: stdout, or conn
	conn *net.TCPConn // of a stream that is no stdout

	// For datagrams:
	socket      *poll.Socket // nil for streams
	maxDatagram int
	packets     sendPackets
	cut         [][]byte // scratch
}

// A dialer connects to upstreams.
type dialer struct {
	proto       line.Protocol
	maxDatagram int
	stdout      io.Writer
	isOwn       func(network string, peer netip.AddrPort) bool // is it one of our listeners?
	own         func(conn syscall.Conn) (*poll.Socket, error)  // takes a socket from the runtime's poller
}

// dial connects to an upstream. A UDP upstream is asked with an empty datagram
// whether its port is refused: servers ignore it, and no line is lost to find
// out.
func (d *dialer) dial(ctx context.Context, a Address) (*link, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	switch a.Network {
	case "stdout":
		return &link{out: d.stdout, resolved: a.String()}, nil
	case "tcp":
		return d.dialTCP(ctx, a)
	}
	return d.dialUDP(ctx, a)
}

func (d *dialer) dialTCP(ctx context.Context, a Address) (*link, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", a.HostPort())
	if err != nil {
		return nil, err
	}
	tcp := conn.(*net.TCPConn)
	if err := errors.Join(d.refuseOwn(a, conn), d.tune(tcp)); err != nil {
		conn.Close()
		return nil, err
	}
	return &link{conn: tcp, out: tcp, resolved: conn.RemoteAddr().String()}, nil
}

// tune bounds how long the kernel holds what a peer does not acknowledge. When we
// give up a connection, or die, the kernel resets it: what StatsD has sent must
// not leave later, and Carbon sends again what was not acknowledged, from a
// line's start; a peer that got half a line is told that the rest won't come.
func (d *dialer) tune(tcp *net.TCPConn) error {
	stall := carbonStall
	if d.proto == line.StatsD {
		stall = statsdStall
		if err := tcp.SetWriteBuffer(statsdSendBuffer); err != nil {
			return err
		}
	}
	if err := tcp.SetLinger(0); err != nil {
		return err
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := raw.Control(func(fd uintptr) { err = setUserTimeout(int(fd), stall) })
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, ctlErr)
}

// dialUDP tries the resolved addresses in order.
func (d *dialer) dialUDP(ctx context.Context, a Address) (*link, error) {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", a.Host)
	if err != nil {
		return nil, err
	}
	for _, ip := range ips {
		var l *link
		if l, err = d.dialUDPAddr(a, netip.AddrPortFrom(ip.Unmap(), uint16(a.Port))); err == nil {
			return l, nil
		}
	}
	return nil, err
}

// dialUDPAddr connects a socket that the runtime does not poll: it would wake a
// thread for every datagram that has left.
func (d *dialer) dialUDPAddr(a Address, peer netip.AddrPort) (*link, error) {
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(peer))
	if err != nil {
		return nil, err
	}
	if err := errors.Join(d.refuseOwn(a, conn), probe(conn)); err != nil {
		conn.Close()
		return nil, err
	}
	socket, err := d.own(conn)
	if err != nil {
		return nil, err
	}
	return &link{socket: socket, maxDatagram: d.maxDatagram, resolved: peer.String()}, nil
}

// probe sends an empty datagram and waits for a refusal.
func probe(conn *net.UDPConn) error {
	if _, err := conn.Write(nil); err != nil {
		return err
	}
	conn.SetReadDeadline(time.Now().Add(probeTimeout))
	defer conn.SetReadDeadline(time.Time{})
	var b [1]byte
	if _, err := conn.Read(b[:]); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil
}

// errOwnListener says that an upstream turned out to be one of our listeners.
var errOwnListener = errors.New("it is our own listener: the lines would run in circles")

func (d *dialer) refuseOwn(a Address, conn net.Conn) error {
	peer, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err == nil && d.isOwn(a.Network, peer) {
		return errOwnListener
	}
	return nil
}

// watch returns when the connection is dead, with the reason, or when ctx ends.
// An upstream has nothing to say: what it says is passed over.
func (l *link) watch(ctx context.Context) error {
	switch {
	case l.socket != nil:
		return l.watchSocket(ctx)
	case l.conn != nil:
		return l.watchConn()
	}
	<-ctx.Done()
	return ctx.Err()
}

func (l *link) watchConn() error {
	var b [512]byte
	for {
		switch _, err := l.conn.Read(b[:]); {
		case errors.Is(err, io.EOF):
			return errClosed
		case err != nil:
			return err
		}
	}
}

func (l *link) watchSocket(ctx context.Context) error {
	var b [512]byte
	for {
		if err := l.socket.Wait(ctx, 0); err != nil {
			return err
		}
		if _, err := l.socket.Read(b[:]); err != nil && !errors.Is(err, syscall.EAGAIN) {
			return err
		}
	}
}

var errClosed = errors.New("closed by the peer")

// interrupt ends a blocked send and watch of a stream.
func (l *link) interrupt() {
	l.interrupted.Store(true)
	if l.conn != nil {
		l.conn.SetDeadline(time.Unix(1, 0))
	}
}

// limit bounds how long the next write to a stream may block: what the kernel
// has not taken by then must not leave.
func (l *link) limit(d time.Duration) {
	if l.conn != nil {
		l.conn.SetWriteDeadline(time.Now().Add(d))
	}
}

// send sends from the lines of buf until all are sent, or the first error. It
// returns how many bytes the kernel took: of a stream any number, of datagrams
// whole lines.
func (l *link) send(buf []byte) (int, error) {
	if l.socket != nil {
		return l.sendDatagrams(buf)
	}
	n, err := l.out.Write(buf)
	l.partial = n < len(buf) && (l.partial || n > 0)
	return n, err
}

// sendDatagrams sends up to sendBatch datagrams.
func (l *link) sendDatagrams(buf []byte) (sent int, err error) {
	l.cut = l.cut[:0]
	for rest := buf; len(rest) > 0 && len(l.cut) < sendBatch; {
		n := packetEnd(rest, l.maxDatagram)
		l.cut = append(l.cut, rest[:n])
		rest = rest[n:]
	}
	n, err := l.sendWaiting(l.cut)
	for _, d := range l.cut[:n] {
		sent += len(d)
	}
	return sent, err
}

// sendWaiting sends datagrams, and waits only where the kernel takes none: for
// a moment, so that the caller can look whether it is to end.
func (l *link) sendWaiting(datagrams [][]byte) (int, error) {
	n, err := l.packets.send(l.socket.FD(), datagrams)
	if !errors.Is(err, syscall.EAGAIN) {
		return n, err
	}
	_, err = unix.Poll([]unix.PollFd{{Fd: int32(l.socket.FD()), Events: unix.POLLOUT}}, sendPoll)
	if errors.Is(err, syscall.EINTR) {
		err = nil
	}
	return 0, err
}

// packetEnd returns the length of the lines at the head of buf that one
// datagram of at most limit bytes takes; a line that alone is longer is alone.
func packetEnd(buf []byte, limit int) int {
	if len(buf) <= limit {
		return len(buf)
	}
	if n := bytes.LastIndexByte(buf[:limit], '\n'); n >= 0 {
		return n + 1
	}
	return bytes.IndexByte(buf, '\n') + 1
}

// close ends the connection at once; what the kernel has not sent is lost.
func (l *link) close() {
	switch {
	case l.socket != nil:
		l.socket.Close()
	case l.conn != nil:
		l.conn.Close()
	}
}

// finish ends a stream gracefully: it says that nothing more comes, and waits
// until the peer has taken all, or ctx ends. dead tells how the connection ended.
// read says that the peer closed it, after it had read all.
func (l *link) finish(ctx context.Context, dead <-chan error) (read bool, err error) {
	if l.conn == nil {
		return true, nil
	}
	if l.partial { // the peer must not take it for a line
		return false, fmt.Errorf("%s took only a part of a line", l.resolved)
	}
	if err := l.conn.CloseWrite(); err != nil {
		return false, err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	var acked time.Time // when all was first seen to be acknowledged
	for {
		select {
		case err := <-dead:
			if read = errors.Is(err, errClosed) && l.isTaken(); read {
				return true, l.conn.SetLinger(-1)
			}
			return false, err
		case <-ctx.Done():
		case <-tick.C:
		}
		if l.isTaken() && acked.IsZero() {
			acked = time.Now()
		}
		switch {
		case !acked.IsZero() && (ctx.Err() != nil || time.Since(acked) > closeWait):
			return false, l.conn.SetLinger(-1) // closing must not reset what the peer has yet to read
		case ctx.Err() != nil:
			return false, fmt.Errorf("%s has not taken all: %w", l.resolved, ctx.Err())
		}
	}
}

// isTaken says whether the peer's kernel has taken all that was sent.
func (l *link) isTaken() bool {
	n, err := askTCP(l, unsent)
	return err == nil && n == 0
}

// expectBacklog says whether live lines must be able to overtake others.
func (l *link) expectBacklog(is bool) {
	if l.conn == nil || l.short == is {
		return
	}
	l.short = is
	limit := 0 // the system's
	if is {
		limit = backlogUnsent
	}
	askTCP(l, func(fd int) (struct{}, error) { return struct{}{}, limitUnsent(fd, limit) }) // or it goes on as it is
}

// acked returns how many of the bytes written the peer's kernel has
// acknowledged. Where nothing acknowledges, it is what ours took.
func (l *link) acked() (uint64, error) {
	if l.conn == nil {
		return l.written, nil
	}
	n, err := askTCP(l, bytesAcked)
	if errors.Is(err, errors.ErrUnsupported) {
		return l.written, nil
	}
	return min(n, l.written), err
}

// askTCP asks the kernel about the connection.
func askTCP[T any](l *link, ask func(fd int) (T, error)) (answer T, err error) {
	raw, err := l.conn.SyscallConn()
	if err != nil {
		return answer, err
	}
	ctlErr := raw.Control(func(fd uintptr) { answer, err = ask(int(fd)) })
	return answer, errors.Join(err, ctlErr)
}
