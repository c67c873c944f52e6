package link

import (
	"errors"
	"io"
	"net"
	"os"
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
)

// AskTime is within what time the kernel asks a peer again that has no room.
const AskTime = 10 * time.Second

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
	conn     streamConn
	tcp      *net.TCPConn // conn, if it is one
	raw      syscall.RawConn
	written  uint64 // bytes that our kernel took
	isNarrow bool
	asks     bool // our kernel asks the peer again every AskTime, for ever
}

// newStream takes a connection. See Dialer.Resets for resets.
func newStream(conn streamConn, resets bool) (l *stream, err error) {
	l = &stream{conn: conn}
	l.tcp, _ = conn.(*net.TCPConn)
	if l.raw, err = conn.SyscallConn(); err == nil && l.tcp != nil {
		err = l.tcp.SetKeepAliveConfig(keepAlive)
	}
	switch {
	case err != nil || l.tcp == nil:
	case resets:
		l.asks = l.set(maxPause, int(AskTime.Milliseconds())) == nil
		err = l.tcp.SetLinger(0)
	default:
		err = errors.Join(l.tcp.SetWriteBuffer(onceBuffer), l.set(mostUnsent, onceUnsent))
	}
	if err != nil {
		conn.Close()
	}
	return l, err
}

// control runs f on the descriptor. That the system has no such thing is no error.
func (l *stream) control(f func(fd int) error) (err error) {
	ctlErr := l.raw.Control(func(fd uintptr) { err = f(int(fd)) })
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil
	}
	return errors.Join(err, ctlErr)
}

// set sets an option of TCP.
func (l *stream) set(option, value int) error {
	return l.control(func(fd int) error { return setTCP(fd, option, value) })
}

func (l *stream) Write(lines []byte, limit time.Duration) (int, error) {
	l.conn.SetWriteDeadline(time.Now().Add(limit))
	n, err := l.conn.Write(lines)
	l.written += uint64(n)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = nil
	}
	return n, err
}

func (l *stream) Look() (Peer, error) {
	if l.tcp == nil {
		return l.lookUnix()
	}
	peer, closed := Peer{Acked: l.written}, false
	err := l.control(func(fd int) (err error) { closed, err = askTCP(fd, &peer); return err })
	peer.Acked = min(peer.Acked, l.written)
	if l.asks {
		peer.Full = 0 // nothing is bounded
	}
	if closed && err == nil && peer.Acked < l.written {
		err = syscall.ECONNRESET
	}
	return peer, err
}

// lookUnix: what the peer has not read is in our buffer still, and takes no less memory
// there than it has bytes.
func (l *stream) lookUnix() (peer Peer, err error) {
	unread := 0
	err = l.control(func(fd int) (err error) { unread, err = unsent(fd); return err })
	if err == nil && uint64(unread) < l.written {
		peer.Acked = l.written - uint64(unread)
	}
	return peer, err
}

// Bound: where nothing leaves that we leave behind, and the peer is asked anyway, the kernel need not
// give up. It may do so though the peer takes lines: it counts from when it first asked, whatever was
// taken since, unless the peer had room for all that was to go at once (icsk_probes_tstamp).
func (l *stream) Bound(d time.Duration) error {
	if l.tcp == nil || l.asks {
		return nil
	}
	return l.set(userTimeout, max(1, int(d.Milliseconds())))
}

func (l *stream) Watch() ([]byte, error) { return readToEnd(l.conn) }

// readToEnd is the watch of a Link.
func readToEnd(r io.Reader) (said []byte, err error) {
	said = make([]byte, 64)
	n, err := r.Read(said)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = ErrClosed
	}
	return said[:n], err
}

func (l *stream) Narrow(is bool) {
	if l.tcp == nil || l.isNarrow == is {
		return
	}
	l.isNarrow = is
	limit := 0 // the system's
	if is {
		limit = narrowUnsent
	}
	l.set(mostUnsent, limit) // or it goes on as it is
}

func (l *stream) CloseWrite() (bool, error) { return true, l.conn.CloseWrite() }

func (l *stream) Close() {
	if l.tcp != nil {
		l.tcp.SetLinger(-1)
	}
	l.conn.Close()
}

func (l *stream) Reset() {
	if l.tcp != nil {
		l.tcp.SetLinger(0)
	}
	l.conn.Close()
}
