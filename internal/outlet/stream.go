package outlet

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// A stream whose lines are sent at most once keeps no more than this in the
	// kernel, in bytes: there they can't be taken back.
	onceBuffer = 64 << 10
	onceUnsent = 16 << 10

	// narrowUnsent is how much the kernel takes that it cannot send yet, in bytes,
	// while there is a backlog: what waits there, no live line can overtake.
	// Otherwise it takes what it likes: to be woken when it has room costs more than
	// the write.
	narrowUnsent = 256 << 10

	// goneAfter is how long a peer must have answered nothing to be gone.
	goneAfter = 15 * time.Second

	// boundEvery is how often the kernel is told how long it may go on trying.
	boundEvery = 500 * time.Millisecond
)

// keepAlive finds out within 20 s that the host of an idle connection is gone.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 3 * time.Second, Count: 3}

// streamConn is what *net.TCPConn and *net.UnixConn share.
type streamConn interface {
	net.Conn
	syscall.Conn
	CloseWrite() error
}

// A stream is a TCP or unix connection.
type stream struct {
	conn    streamConn
	tcp     *net.TCPConn // conn, if it is one
	raw     syscall.RawConn
	written uint64 // bytes that our kernel took
	window  int64  // the most that the peer's kernel has offered
	narrowd bool
	bound   boundary

	interrupted atomic.Bool
}

// newStream takes a connection. See Options for resets.
func newStream(conn streamConn, resets bool) (*stream, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	l := &stream{conn: conn, raw: raw}
	var isTCP bool
	if l.tcp, isTCP = conn.(*net.TCPConn); !isTCP {
		return l, nil
	}
	if resets {
		return l, errors.Join(l.tcp.SetKeepAliveConfig(keepAlive), l.tcp.SetLinger(0))
	}
	return l, errors.Join(l.tcp.SetKeepAliveConfig(keepAlive), l.tcp.SetWriteBuffer(onceBuffer),
		l.control(func(fd int) error { return limitUnsent(fd, onceUnsent) }))
}

// control runs f on the descriptor. That the system has no such thing is no error.
func (l *stream) control(f func(fd int) error) (err error) {
	ctlErr := l.raw.Control(func(fd uintptr) { err = f(int(fd)) })
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, ctlErr)
}

func (l *stream) write(lines []byte, limit time.Duration) (int, error) {
	l.conn.SetWriteDeadline(time.Now().Add(limit))
	if l.interrupted.Load() {
		return 0, net.ErrClosed
	}
	n, err := l.conn.Write(lines)
	l.written += uint64(n)
	if errors.Is(err, os.ErrDeadlineExceeded) && !l.interrupted.Load() {
		err = nil
	}
	return n, err
}

func (l *stream) look(now time.Time, within time.Duration) (peer Peer, err error) {
	if l.tcp == nil {
		return l.lookUnix()
	}
	info := tcpInfo{acked: l.written}
	err = l.control(func(fd int) error { return askTCP(fd, &info) })
	info.acked = min(info.acked, l.written)
	l.window = max(l.window, info.window)
	peer = Peer{Acked: info.acked, Window: l.window}
	if info.asked {
		peer.Silence = info.sinceAck
	}
	if err != nil {
		return peer, err
	}
	open := l.written - info.acked
	if info.closed && open > 0 {
		return peer, syscall.ECONNRESET
	}
	if stalled, due := l.bound.look(now, info.acked, open, within); due {
		within -= min(within/4, time.Second) // the kernel counts from when it found out
		err = l.control(func(fd int) error { return setUserTimeout(fd, stalled+within) })
	}
	if l.bound.isGone(now, info) {
		return peer, errGone
	}
	return peer, err
}

// lookUnix: what the peer has not read is in our buffer still, and takes no less memory
// there than it has bytes.
func (l *stream) lookUnix() (Peer, error) {
	unread := 0
	err := l.control(func(fd int) (err error) { unread, err = unsent(fd); return err })
	if err == nil && uint64(unread) < l.written {
		l.bound.acked = max(l.bound.acked, l.written-uint64(unread))
	}
	return Peer{Acked: l.bound.acked}, err
}

// A boundary is what is known of a peer that does not acknowledge what it is sent.
//
// How long the kernel goes on with that is bounded by TCP_USER_TIMEOUT, counted
// from when the peer took no more. It is moved on while we live: so a peer that
// answers that it has no room is never given up, and the kernel asks it again
// within the time (without, it would wait for up to two minutes); but when we are
// gone, nothing leaves after that time.
type boundary struct {
	acked    uint64
	progress time.Time // when something was acknowledged, or nothing was to be
	told     time.Time // when the kernel was last told
	within   time.Duration
	doubt    time.Time // since when it looks gone; zero: it doesn't
}

// look takes note of what is acknowledged and of what is not. It returns for how
// long nothing has been, and whether the kernel is to be told.
func (b *boundary) look(now time.Time, acked, open uint64, within time.Duration) (stalled time.Duration, due bool) {
	if acked > b.acked || open == 0 || b.progress.IsZero() {
		b.acked, b.progress = acked, now
	}
	if due = open > 0 && (within < b.within-boundEvery/2 || now.Sub(b.told) >= boundEvery); due {
		b.told, b.within = now, within
	}
	return now.Sub(b.progress), due
}

// isGone says whether the peer's host has not answered for long what it was asked,
// seen twice.
func (b *boundary) isGone(now time.Time, info tcpInfo) bool {
	if now.Sub(b.progress) < goneAfter || info.sinceAck < goneAfter || !info.asked {
		b.doubt = time.Time{}
		return false
	}
	if b.doubt.IsZero() {
		b.doubt = now
	}
	return now.Sub(b.doubt) >= time.Second
}

// tcpInfo is what the kernel knows of a TCP connection.
type tcpInfo struct {
	acked    uint64        // bytes that the peer's kernel has acknowledged
	window   int64         // bytes behind them that it takes
	sinceAck time.Duration // since the peer last answered anything
	asked    bool          // the peer was sent what it has not answered yet
	closed   bool          // both sides are closed, or the connection was reset
}

func (l *stream) watch() ([]byte, error) { return readToEnd(l.conn) }

// readToEnd is the watch of a link.
func readToEnd(r io.Reader) (said []byte, err error) {
	var b [512]byte
	for err == nil {
		var n int
		n, err = r.Read(b[:])
		if len(said) == 0 {
			said = bytes.Clone(b[:min(n, 64)])
		}
	}
	if errors.Is(err, io.EOF) {
		err = errClosed
	}
	return said, err
}

func (l *stream) interrupt() {
	l.interrupted.Store(true)
	l.conn.SetDeadline(time.Unix(1, 0))
}

func (l *stream) narrow(is bool) {
	if l.tcp == nil || l.narrowd == is {
		return
	}
	l.narrowd = is
	limit := 0 // the system's
	if is {
		limit = narrowUnsent
	}
	l.control(func(fd int) error { return limitUnsent(fd, limit) }) // or it goes on as it is
}

func (l *stream) closeWrite() (bool, error) { return true, l.conn.CloseWrite() }

func (l *stream) close() {
	if l.tcp != nil {
		l.tcp.SetLinger(-1)
	}
	l.conn.Close()
}

func (l *stream) reset() {
	if l.tcp != nil {
		l.tcp.SetLinger(0)
	}
	l.conn.Close()
}
