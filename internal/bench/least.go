//go:build linux

package main

import (
	"bytes"
	"errors"
	"net"
	"runtime/debug"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// A leastSpec is what a least or plain forwarder is to do.
type leastSpec struct {
	Protocol string
	Senders  int           // connections, of Carbon
	Port     int           // of 127.0.0.1, where lines go to
	Gather   time.Duration // how long input may gather; 0: none
}

// listening is what a least or plain forwarder says first.
type listening struct{ Port int }

// maxDatagram is the largest UDP payload that leaves, in bytes: the daemon's
// default.
const maxDatagram = 1432

// leastBlock is how much is read at once from a stream, in bytes.
const leastBlock = 128 << 10

var (
	prefixIn  = []byte(nameIn + ".")
	prefixOut = []byte(nameOut + ".")
)

// forwardLeast is the least forwarder: the yardstick. It moves and rewrites
// lines in the fewest and largest system calls that there are, from one
// goroutine, and does nothing else: no checks, no claim, no books, no bound of
// memory, no upstream that may be down.
func forwardLeast(spec leastSpec, parent *channel) error {
	go exitWithParent(parent)
	debug.SetGCPercent(-1) // it allocates nothing from here on
	if spec.Protocol == statsd {
		return forwardLeastDatagrams(spec, parent)
	}
	return forwardLeastStreams(spec, parent)
}

// gather lets input gather for d, once there is some. While there was some
// just now it does not ask, but sleeps: time.Sleep, on a goroutine that is not
// locked to a thread, was the cheapest way of all that tell the runtime.
func gather(fds []unix.PollFd, d time.Duration, idle bool) {
	if idle || d == 0 {
		unix.Poll(fds, -1) // a signal: early, and no harm
	}
	time.Sleep(d)
}

// forwardLeastDatagrams packs the lines of many datagrams into few.
func forwardLeastDatagrams(spec leastSpec, parent *channel) error {
	in, err := udpSocket()
	if err != nil {
		return err
	}
	out, err := udpSocket()
	if err != nil {
		return err
	}
	port, err := localPort(in)
	granted, growErr := sockets.Grow(in, receiveBuffer)
	if err := errors.Join(err, growErr, unix.Connect(out, loopback(spec.Port))); err != nil {
		return err
	}
	if granted < 1<<20 {
		spec.Gather = min(spec.Gather, time.Millisecond) // as the daemon does
	}
	if err := parent.tell(listening{port}); err != nil {
		return err
	}
	packer := &packer{fd: out, out: newPackets(64, maxDatagram)}
	received := newPackets(256, 2048)
	poll := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}}
	for {
		n, err := received.poll(in)
		if err != nil && err != unix.EAGAIN {
			return err
		}
		for i := range n {
			if err := packer.datagram(received.received(i)); err != nil {
				return err
			}
		}
		if n == len(received.msgs) {
			continue
		}
		if err := packer.flush(); err != nil {
			return err
		}
		gather(poll, spec.Gather, n == 0)
	}
}

// A packer packs rewritten lines into full datagrams.
type packer struct {
	fd   int
	out  *packets
	full int // datagrams that are packed
	used int // bytes in the one behind them
}

// datagram takes the lines of a datagram.
func (p *packer) datagram(data []byte) error {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			end = len(data)
		}
		if p.used+end+len(prefixOut)+1 > maxDatagram {
			if err := p.turn(); err != nil {
				return err
			}
		}
		p.used = len(appendRewritten(p.out.bufs[p.full][:p.used], data[:end]))
		data = data[end:]
	}
	return nil
}

// turn begins the next datagram, and sends all when there is room for no more.
func (p *packer) turn() error {
	p.out.setLen(p.full, p.used)
	p.full, p.used = p.full+1, 0
	if p.full == len(p.out.msgs) {
		return p.send()
	}
	return nil
}

// flush sends what there is.
func (p *packer) flush() error {
	if p.used > 0 {
		p.out.setLen(p.full, p.used)
		p.full, p.used = p.full+1, 0
	}
	return p.send()
}

func (p *packer) send() error {
	n := p.full
	p.full = 0
	return p.out.send(p.fd, n)
}

// appendRewritten appends a line to dst, rewritten and ended.
func appendRewritten(dst, ln []byte) []byte {
	if bytes.HasPrefix(ln, prefixIn) {
		dst = append(dst, prefixOut...)
		ln = ln[len(prefixIn):]
	}
	dst = append(dst, ln...)
	if ln[len(ln)-1] != '\n' {
		dst = append(dst, '\n')
	}
	return dst
}

// forwardLeastStreams forwards one set of connections after the other: it
// accepts as many as there are senders, and forwards until all have ended.
func forwardLeastStreams(spec leastSpec, parent *channel) error {
	in, err := listenStream()
	if err != nil {
		return err
	}
	out, err := dialStream(spec.Port)
	if err != nil {
		return err
	}
	port, err := localPort(in)
	if err != nil {
		return err
	}
	if err := parent.tell(listening{port}); err != nil {
		return err
	}
	for {
		m, err := acceptAll(in, spec.Senders)
		if err != nil {
			return err
		}
		if err := m.run(out, spec.Gather); err != nil {
			return err
		}
	}
}

func listenStream() (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(unix.Bind(fd, loopback(0)), unix.Listen(fd, maxSenders))
}

// dialStream connects a blocking socket that sends at once.
func dialStream(port int) (fd int, err error) {
	fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	return fd, errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1), unix.Connect(fd, loopback(port)))
}

// A merger forwards the lines of some connections over one.
type merger struct {
	conns []*leastConn
	poll  []unix.PollFd // of the connections that are open
	out   []byte
}

// A leastConn is a non-blocking socket.
type leastConn struct {
	fd    int
	block []byte
	tail  int // bytes of an unfinished line at the head of block
}

func acceptAll(listener, conns int) (*merger, error) {
	m := &merger{out: make([]byte, 0, 2*leastBlock)}
	for range conns {
		fd, _, err := unix.Accept4(listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return nil, err
		}
		m.conns = append(m.conns, &leastConn{fd: fd, block: make([]byte, leastBlock)})
		m.poll = append(m.poll, unix.PollFd{Fd: int32(fd), Events: unix.POLLIN})
	}
	return m, nil
}

// run forwards until all connections have ended.
func (m *merger) run(out int, gathering time.Duration) error {
	for len(m.conns) > 0 {
		most, err := m.round(out)
		if err != nil {
			return err
		}
		if err := m.flush(out); err != nil {
			return err
		}
		if most < leastBlock/4 && len(m.conns) > 0 {
			gather(m.poll, gathering, most == 0)
		}
	}
	return nil
}

// round reads once from each connection, and returns the most bytes that one of
// them had.
func (m *merger) round(out int) (most int, err error) {
	for i := 0; i < len(m.conns); i++ {
		n, open, err := m.conns[i].read()
		if err != nil {
			return 0, err
		}
		if !open {
			m.drop(i)
			i--
			continue
		}
		most = max(most, n)
		m.out = m.conns[i].take(m.out, n)
		if len(m.out) > leastBlock/2 {
			if err := m.flush(out); err != nil {
				return 0, err
			}
		}
	}
	return most, nil
}

// drop closes the i-th connection.
func (m *merger) drop(i int) {
	unix.Close(m.conns[i].fd)
	m.conns = slices.Delete(m.conns, i, i+1)
	m.poll = slices.Delete(m.poll, i, i+1)
}

func (m *merger) flush(out int) error {
	err := writeAll(out, m.out)
	m.out = m.out[:0]
	return err
}

// read reads what has come behind the tail. It does not wait.
func (c *leastConn) read() (n int, open bool, err error) {
	n, err = unix.Read(c.fd, c.block[c.tail:])
	switch err {
	case nil:
		return n, n > 0, nil
	case unix.EAGAIN, unix.EINTR:
		return 0, true, nil
	case unix.ECONNRESET:
		return 0, false, nil
	}
	return 0, false, err
}

// take appends the lines in the tail and the n bytes behind it to dst,
// rewritten, and keeps what is unfinished.
func (c *leastConn) take(dst []byte, n int) []byte {
	data := c.block[:c.tail+n]
	for {
		end := bytes.IndexByte(data, '\n') + 1
		if end == 0 {
			break
		}
		dst = appendRewritten(dst, data[:end])
		data = data[end:]
	}
	c.tail = copy(c.block, data)
	return dst
}

// forwardPlain is the loop that everybody writes first: a Read and a Write for
// each datagram.
func forwardPlain(spec leastSpec, parent *channel) error {
	go exitWithParent(parent)
	in, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return err
	}
	out, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: spec.Port})
	if err != nil {
		return err
	}
	if err := parent.tell(listening{in.LocalAddr().(*net.UDPAddr).Port}); err != nil {
		return err
	}
	buf, line := make([]byte, 64<<10), make([]byte, 0, 64<<10)
	for {
		n, err := in.Read(buf)
		if err != nil {
			return err
		}
		line = line[:0]
		for ln := range bytes.Lines(buf[:n]) {
			line = appendRewritten(line, ln)
		}
		if _, err := out.Write(line); err != nil {
			return err
		}
	}
}
