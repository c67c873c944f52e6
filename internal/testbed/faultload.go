//go:build linux

package testbed

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// A load is what the senders of a test send. Each sender opens a new stream
// when its connection has broken.
type load struct {
	senders int // TCP connections that carry Carbon lines
	rate    int // Carbon lines a second, of all of them together

	lines   *tallier
	addrs   relayAddrs
	refused atomic.Int64 // attempts to connect

	mu    sync.Mutex
	conns map[*sending]bool // that are open
}

// beside is the rate of each of the other senders: one of Carbon by UDP, one of
// StatsD by UDP and one by TCP, and one that connects for every few lines.
const beside = 100

// linesPerDatagram is how many lines a datagram carries.
const linesPerDatagram = 4

// sendPitch is how often a sender looks what is due.
const sendPitch = 20 * time.Millisecond

// sendBuffer is the SO_SNDBUF of senders: it bounds what may be lost with a
// relay that is killed. The kernel doubles it.
const sendBuffer = 32 << 10

// run sends until ctx ends, and then until the relay has read it all.
func (l *load) run(ctx context.Context) {
	var senders sync.WaitGroup
	defer senders.Wait()
	for i := range l.senders {
		perWrite := pick(i%4 == 0, 1, 1000) // small writes, and blocks of what is due
		senders.Go(func() { l.stream(ctx, true, l.addrs.carbon, l.rate/l.senders, perWrite, 0) })
	}
	senders.Go(func() { l.datagrams(ctx, true, l.addrs.carbonUDP) })
	senders.Go(func() { l.stream(ctx, false, l.addrs.statsd, beside, 1000, 0) })
	senders.Go(func() { l.datagrams(ctx, false, l.addrs.statsdUDP) })
	senders.Go(func() { l.stream(ctx, true, l.addrs.carbon, beside, 1000, 20) })
}

// stream sends lines by TCP at a rate, some in a write, at most so many in a
// connection; 0: any number.
func (l *load) stream(ctx context.Context, carbon bool, addr string, rate, perWrite, perConn int) {
	for ctx.Err() == nil {
		conn := l.dial(ctx, addr)
		if conn == nil {
			continue
		}
		s := l.lines.open(carbon, false)
		c := &sending{load: l, stream: s, conn: conn, perWrite: perWrite}
		c.run(ctx, rate, perConn)
	}
}

// dial connects; nil when it was refused, after a pause.
func (l *load) dial(ctx context.Context, addr string) *net.TCPConn {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		if ctx.Err() == nil {
			l.refused.Add(1)
		}
		retry.Sleep(ctx, sendPitch)
		return nil
	}
	tcp := conn.(*net.TCPConn)
	tcp.SetWriteBuffer(sendBuffer)
	return tcp
}

// A sending is one connection. One goroutine owns it.
type sending struct {
	*load
	stream   *stream
	conn     *net.TCPConn
	perWrite int // lines
	seq      uint32
	block    []byte
	ends     []int // of the lines in block
	window   int   // the largest that the relay has offered, in bytes
}

// run sends until ctx ends, so many lines are sent, or the connection breaks,
// and books how it ended.
func (c *sending) run(ctx context.Context, rate, limit int) {
	c.enlist(true)
	defer c.conn.Close()
	defer c.enlist(false)
	start := time.Now()
	for ctx.Err() == nil && (limit == 0 || int(c.seq) < limit) {
		due := int(time.Since(start).Seconds()*float64(rate)) - int(c.seq)
		if limit > 0 {
			due = min(due, limit-int(c.seq))
		}
		for due > 0 {
			n := min(due, c.perWrite)
			if err := c.write(n); err != nil {
				c.lines.end(c.stream, broken, c.bound())
				return
			}
			due -= n
		}
		retry.Sleep(ctx, sendPitch)
	}
	c.lines.end(c.stream, c.finish(), c.bound())
}

func (c *sending) enlist(open bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conns == nil {
		c.conns = map[*sending]bool{}
	}
	if open {
		c.conns[c] = true
	} else {
		delete(c.conns, c)
	}
}

// noteRead notes of each connection with Carbon how much of it the relay has read, which
// stands still and is about to be killed.
func (l *load) noteRead(kill int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.conns {
		if relays, err := askOfSocket(c.conn.RemoteAddr(), c.conn.LocalAddr()); err == nil && c.stream.carbon {
			l.lines.noteRead(c.stream, kill, relays.read)
		}
	}
}

// write writes the next n lines, and books what was taken.
func (c *sending) write(n int) error {
	line := numbered{carbon: c.stream.carbon, stream: c.stream.id, sent: time.Now().UnixMilli()}
	if !line.carbon {
		line.sent = 0
	}
	c.block, c.ends = c.block[:0], c.ends[:0]
	for range n {
		line.seq = c.seq
		c.block = line.append(c.block, nameSent)
		c.ends = append(c.ends, len(c.block))
		c.seq++
	}
	if c.seq%64 < uint32(n) {
		c.lookAtWindow()
	}
	took, err := c.conn.Write(c.block)
	lines := 0
	for lines < n && c.ends[lines] <= took {
		lines++
	}
	c.lines.wrote(c.stream, lines, took)
	return err
}

// lookAtWindow notes how much the relay's receive buffer takes. Its window is
// what is left of it: the largest ever offered is the buffer.
func (c *sending) lookAtWindow() {
	c.control(func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err == nil {
			c.window = max(c.window, int(info.Snd_wnd))
		}
		return err
	})
}

// bound returns how many bytes the two socket buffers hold at most. The window may have
// grown since it was looked at: it doubles in a round trip.
func (c *sending) bound() int {
	n := 0
	c.control(func(fd int) (err error) {
		n, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF)
		return err
	})
	return n + 2*c.window
}

// finish says that nothing more comes, and waits until the relay closes, which
// it does when it has read all. A relay that is killed closes, too; and one that
// had closed before knows nothing of what was written after: that is refused, but
// maybe later.
func (c *sending) finish() fate {
	c.conn.CloseWrite()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	var b [1]byte
	if _, err := c.conn.Read(b[:]); !errors.Is(err, io.EOF) {
		return pick(errors.Is(err, os.ErrDeadlineExceeded), unended, broken)
	}
	if c.lines.wasKilled(c.stream) || !c.isTaken() {
		return broken
	}
	return whole
}

// isTaken says whether the relay's kernel has acknowledged all that was written,
// and has not taken it back by a reset.
func (c *sending) isTaken() bool {
	const syn = 1
	err := c.control(func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err != nil {
			return err
		}
		if written := c.lines.bytesOf(c.stream); int(info.Bytes_acked) < written+syn {
			return fmt.Errorf("%d of %d bytes are acknowledged", info.Bytes_acked, written)
		}
		n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if n != 0 {
			err = unix.Errno(n)
		}
		return err
	})
	return err == nil
}

// control asks the socket.
func (c *sending) control(ask func(fd int) error) error {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return err
	}
	var answer error
	err = raw.Control(func(fd uintptr) { answer = ask(int(fd)) })
	return cmp.Or(err, answer)
}

// datagrams sends lines by UDP, some in a datagram.
func (l *load) datagrams(ctx context.Context, carbon bool, addr string) {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		l.refused.Add(1)
		return
	}
	defer conn.Close()
	s := l.lines.open(carbon, true)
	line := numbered{carbon: carbon, stream: s.id}
	var datagram []byte
	for ctx.Err() == nil {
		datagram = datagram[:0]
		if carbon {
			line.sent = time.Now().UnixMilli()
		}
		for range linesPerDatagram {
			datagram = line.append(datagram, nameSent)
			line.seq++
		}
		if _, err := conn.Write(datagram); err != nil {
			line.seq -= linesPerDatagram // refused: nobody is there
		} else {
			l.lines.wrote(s, linesPerDatagram, len(datagram))
		}
		retry.Sleep(ctx, linesPerDatagram*time.Second/beside)
	}
}
