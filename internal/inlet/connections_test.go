package inlet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

func limited(n int) Settings {
	s := defaults
	s.MaxConnections = n
	return s
}

// At the limit, the connection that was idle longest makes room. Its sender is told,
// and what it sends without having looked is read all the same.
func TestIdleLongestMakesRoom(t *testing.T) {
	t.Parallel()
	in := start(t, limited(3), localTCP)
	var conns []net.Conn
	for i := range 3 {
		conn := in.dial(t, 0)
		conns = append(conns, conn)
		write(t, conn, fmt.Sprintf("first.%d\n", i))
		in.came(t, fmt.Sprintf("first.%d", i))
	}
	write(t, in.dial(t, 0), "new\n")
	in.came(t, "new")
	ends(t, conns[0])
	write(t, conns[0], "blind\n")
	write(t, conns[1], "second.1\n")
	write(t, conns[2], "second.2\n")
	in.came(t, "blind", "second.1", "second.2")
	if s := in.Connections(); s.MadeRoom != 1 || s.Limit != 3 {
		t.Errorf("got %+v", s)
	}
}

// Who sends to a unix socket is told at once that nobody reads: no line leaves it
// for nothing.
func TestUnixConnectionMakesRoom(t *testing.T) {
	t.Parallel()
	in := start(t, limited(1), address.Address{Network: "unix", Path: socketPath(t, "s")})
	conn := in.dial(t, 0)
	write(t, conn, "first\n")
	in.came(t, "first")
	write(t, in.dial(t, 0), "new\n")
	in.came(t, "new")
	if _, err := io.WriteString(conn, "blind\n"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("write: %v, want EPIPE", err)
	}
}

// What has come and is not read, since this host had no time for it, is no silence.
func TestUnreadIsNotIdle(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	socket, err := newBinder(t).poller.Own(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	c := newConnections(slog.New(slog.DiscardHandler))
	const conns = 1000
	c.set(limited(conns))
	for range conns {
		c.add(&streamReader{socket: socket, isUnix: true})
	}
	longAgo := func() {
		for s := range c.running {
			s.lastTaken.Add(-int64(2 * idleEnough))
		}
	}

	unix.Write(pair[1], []byte("line\n"))
	longAgo()
	if c.makeRoom(true) || c.stats.MadeRoom > 0 {
		t.Errorf("it made room (%+v), with a line that waits", c.stats)
	}
	socket.Read(make([]byte, 100))
	longAgo()
	if c.makeRoom(true); c.stats.MadeRoom != 1 {
		t.Errorf("it made no room: %+v", c.stats)
	}
}

// A connection that nobody makes room for waits in the backlog, with what it has
// brought, and is served when another one ends.
func TestNobodyIsIdle(t *testing.T) {
	t.Parallel()
	in := start(t, limited(2), localTCP)
	var stop atomic.Bool
	var hogs sync.WaitGroup
	defer hogs.Wait()
	defer stop.Store(true)
	hog := func(conn net.Conn) {
		for !stop.Load() {
			if _, err := io.WriteString(conn, "hog\n"); err != nil {
				t.Error(err)
				return
			}
			<-time.After(10 * time.Millisecond)
		}
	}
	var first atomic.Bool
	hogs.Go(func() { hog(in.dial(t, 0)) })
	hogs.Go(func() {
		conn := in.dial(t, 0)
		for !first.Load() {
			write(t, conn, "hog\n")
			<-time.After(10 * time.Millisecond)
		}
		conn.Close()
	})
	eventually(t, "two hogs", func() bool { return in.Listeners()[0].Connections() == 2 })
	for i := range 20 {
		write(t, in.dial(t, 0), fmt.Sprintf("new.%d\n", i))
	}
	eventually(t, "they wait", func() bool { return in.Connections().Waited > 0 })
	if n := in.count("new."); n > 0 {
		t.Errorf("%d are served over the limit", n)
	}
	first.Store(true)
	in.came(t, "new.0", "new.1") // the first one's end, and then its own idleness, made room
	if n := in.logged("level=WARN"); n != 1 {
		t.Errorf("%d warnings, want one", n)
	}
}

// Who sends a line byte by byte, for ever, keeps nobody out.
func TestDripIsIdle(t *testing.T) {
	t.Parallel()
	in := start(t, limited(1), localTCP)
	hog := in.dial(t, 0)
	write(t, hog, "first\n")
	in.came(t, "first")
	var stop atomic.Bool
	var dripping sync.WaitGroup
	defer dripping.Wait()
	defer stop.Store(true)
	dripping.Go(func() {
		for !stop.Load() {
			io.WriteString(hog, "x")
			<-time.After(20 * time.Millisecond)
		}
	})
	write(t, in.dial(t, 0), "new\n")
	in.came(t, "new")
	write(t, hog, "\n")
	eventually(t, "its line", func() bool { return in.count("xx") == 1 })
}

// fillDescriptors leaves this process n descriptors, until the end of the test.
func fillDescriptors(t *testing.T, n uint64) {
	t.Helper()
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	last := 0
	for _, e := range entries {
		fd := 0
		fmt.Sscan(e.Name(), &fd)
		last = max(last, fd)
	}
	for fd := 0; fd <= last; { // none is free below
		if fd, err = syscall.Dup(0); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { syscall.Close(fd) })
		last = max(last, fd-1)
	}
	now := before
	now.Cur = uint64(last) + 2 + n
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before) })
}

// Without descriptors, connections wait. None loses a line, and it is said once.
func TestOutOfDescriptors(t *testing.T) {
	in := bound(t, nil, localTCP)
	const conns = 40
	for i := range conns {
		conn := in.dial(t, 0)
		write(t, conn, fmt.Sprintf("c.%d\n", i))
		if i >= 3 {
			conn.(*net.TCPConn).CloseWrite()
		}
	}
	fillDescriptors(t, 3)
	in.run(t, limited(1000))
	eventually(t, "all lines", func() bool { return in.count("c.") == conns })
	if n := in.logged("out of descriptors"); n != 1 {
		t.Errorf("it is said %d times, want once", n)
	}
	if s := in.Connections(); s.ShortOf == 0 {
		t.Errorf("not counted: %+v", s)
	}
}

// Nor does one that waits at the end, however long it takes to accept all.
func TestStopOutOfDescriptors(t *testing.T) {
	in := bound(t, nil, address.Address{Network: "unix", Path: socketPath(t, "s")})
	const conns = 250
	for i := range conns {
		conn := in.dial(t, 0)
		write(t, conn, fmt.Sprintf("c.%d\n", i))
		conn.Close()
	}
	fillDescriptors(t, 1)
	ctx, stop := context.WithCancel(t.Context())
	stop()
	in.Begin(ctx, limited(1000))
	in.Wait()
	if n := in.count("c."); n != conns {
		t.Errorf("%d lines of %d", n, conns)
	}
}

// Connections, with those that have only just been ended, leave descriptors to the rest of the
// process.
func TestDescriptorsForOthers(t *testing.T) {
	var before syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &before); err != nil {
		t.Fatal(err)
	}
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &before)
	for all, others := range map[int]int{48: 36, 200: 64, 1024: 64, 4096: 64} {
		now := before
		now.Cur = uint64(all)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
			t.Skip(err)
		}
		c := newConnections(slog.New(slog.DiscardHandler))
		c.set(limited(10_000))
		if c.limit+c.linger > all-others || c.limit < 1 || c.linger < 1 {
			t.Errorf("of %d descriptors, %d and %d are for connections", all, c.limit, c.linger)
		}
	}
}

// An idle connection is ended so that nothing is lost: what its sender had in hand is
// read.
func TestIdleTimeout(t *testing.T) {
	s := defaults
	s.IdleTimeout = 20 * time.Millisecond
	in := start(t, s, localTCP)
	conn := in.dial(t, 0)
	ends(t, conn)
	write(t, conn, "blind\n")
	in.came(t, "blind")
	if n := in.Connections().IdleTimeout; n != 1 {
		t.Errorf("%d ended, want 1", n)
	}
}

// Nor is anything lost where many are idle at a time: who is waited for takes the place of those that
// are open, as long as there is one.
func TestIdleTimeoutOfMany(t *testing.T) {
	s := limited(100)
	s.IdleTimeout = 20 * time.Millisecond
	in := start(t, s, localTCP)
	var conns []net.Conn
	for range 90 {
		conns = append(conns, in.dial(t, 0))
	}
	eventually(t, "all are ended", func() bool { return in.Connections().IdleTimeout == uint64(len(conns)) })
	for _, conn := range conns {
		write(t, conn, "blind\n")
	}
	eventually(t, "all lines", func() bool { return in.count("blind") == len(conns) })
}

// By default a silent connection stays.
func TestSilentConnectionStays(t *testing.T) {
	in := start(t, defaults, localTCP)
	conn := in.dial(t, 0)
	eventually(t, "accepted", func() bool { return in.Listeners()[0].Connections() == 1 })
	conn.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := conn.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("read: %v, want a time-out", err)
	}
}

// A peer that is gone without a word is found by keep-alives.
func TestKeepAlive(t *testing.T) {
	in := start(t, defaults, localTCP)
	in.dial(t, 0)
	eventually(t, "accepted", func() bool { return in.Listeners()[0].Connections() == 1 })
	in.connections.mu.Lock()
	defer in.connections.mu.Unlock()
	for s := range in.connections.running {
		s.socket.Use(func(fd int) error {
			if on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE); on == 0 || err != nil {
				t.Errorf("keep-alives: %d, %v", on, err)
			}
			return nil
		})
	}
}

// A byte that is sent as urgent is one of the stream, at its place.
func TestUrgentByte(t *testing.T) {
	for _, a := range []address.Address{localTCP, {Network: "unix", Path: socketPath(t, "s")}} {
		t.Run(a.Network, func(t *testing.T) {
			in := start(t, defaults, a)
			conn := in.dial(t, 0)
			write(t, conn, "host.a:1")
			raw, err := conn.(syscall.Conn).SyscallConn()
			if err != nil {
				t.Fatal(err)
			}
			raw.Control(func(fd uintptr) { err = unix.Sendto(int(fd), []byte("2"), unix.MSG_OOB, nil) })
			if errors.Is(err, unix.EOPNOTSUPP) {
				t.Skip("there is nothing urgent here")
			}
			if err != nil {
				t.Fatal(err)
			}
			write(t, conn, "|c\n")
			in.came(t, "host.a:12|c")
		})
	}
}

// Who could connect before the end has its line read. By TCP, one may slip in at the
// last moment, and is cut off.
func TestStopLosesNoConnection(t *testing.T) {
	for a, mayCut := range map[address.Address]int64{localTCP: 1, {Network: "unix", Path: socketPath(t, "s")}: 0} {
		t.Run(a.Network, func(t *testing.T) {
			in := start(t, defaults, a)
			at := in.Listeners()[0].Address
			var sent, cut atomic.Int64
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for {
						target := at.Path
						if !at.IsUnix() {
							target = at.HostPort()
						}
						conn, err := net.Dial(at.Network, target)
						if err != nil {
							return
						}
						_, err = io.WriteString(conn, "a\n")
						if err == nil {
							_, err = io.Copy(io.Discard, closed(conn))
						}
						conn.Close()
						if err != nil {
							cut.Add(1)
							t.Log(err)
							continue
						}
						sent.Add(1)
					}
				})
			}
			eventually(t, "many connections", func() bool { return in.count("a") > 200 })
			in.stop()
			clients.Wait()
			if n := int64(in.count("a")); n < sent.Load() || cut.Load() > mayCut {
				t.Errorf("%d lines came of %d, %d were cut off", n, sent.Load(), cut.Load())
			}
		})
	}
}

// notes is a pupil that notes how many connections had been accepted when one was read first.
type notes struct {
	pupil
	accepted, atFirst *atomic.Int64
}

func (n *notes) Begin(at time.Time) {
	n.atFirst.CompareAndSwap(0, n.accepted.Load())
	n.pupil.Begin(at)
}

// At the end, all connections that wait are accepted before any of them is read.
func TestStopAcceptsFirst(t *testing.T) {
	const waiting = 200
	r := bound(t, nil, localTCP)
	var accepted, atFirst atomic.Int64
	r.newHandler = func(line.Protocol, func() string) Handler {
		accepted.Add(1)
		return &notes{pupil{book: r.book}, &accepted, &atFirst}
	}
	for range waiting {
		write(t, r.dial(t, 0), "a\n")
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	r.Begin(ctx, defaults)
	r.Wait()
	if got, read := atFirst.Load(), len(r.Lines()); got != waiting || read != waiting {
		t.Errorf("%d were accepted before the first was read, and %d lines read; want %d of both", got, read, waiting)
	}
}

// A full backlog is accepted at the end, though the host is so busy that each of it takes a while.
func TestDrainOnABusyHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting := 4097
		drain(mostWaiting, func() (int, error) {
			if waiting == 0 {
				return 0, syscall.EAGAIN
			}
			sidebyside.Pass(time.Millisecond)
			waiting--
			return 1, nil
		})
		if waiting > 0 {
			t.Errorf("%d of 4097 are left", waiting)
		}
	})
}

// Who could send to a unix socket of datagrams before the end has it read; who can't is
// told.
func TestStopLosesNoUnixDatagram(t *testing.T) {
	in := start(t, defaults, address.Address{Network: "unixgram", Path: socketPath(t, "s")})
	var sent atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		conn := in.dial(t, 0)
		clients.Go(func() {
			for {
				if _, err := io.WriteString(conn, "datagram"); err != nil {
					return
				}
				sent.Add(1)
			}
		})
	}
	eventually(t, "many datagrams", func() bool { return in.count("datagram") > 1000 })
	in.stop()
	clients.Wait()
	if n := int64(in.count("datagram")); n != sent.Load() {
		t.Errorf("%d datagrams came of %d", n, sent.Load())
	}
}

// closed returns conn after it has said that nothing more will come.
func closed(conn net.Conn) net.Conn {
	conn.(interface{ CloseWrite() error }).CloseWrite()
	return conn
}

// A socket that is at another path's inode by now is not ours to remove.
func TestStopLeavesTheSocketOfAnother(t *testing.T) {
	for _, network := range []string{"unix", "unixgram"} {
		a := address.Address{Network: network, Path: socketPath(t, "s")}
		in := start(t, defaults, a)
		if err := os.Remove(a.Path); err != nil {
			t.Fatal(err)
		}
		other := start(t, defaults, a)
		in.stop()
		conn := dialTo(t, a)
		write(t, conn, "host\n")
		other.came(t, "host")
		other.stop()
		if _, err := os.Lstat(a.Path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: its own file is left behind: %v", network, err)
		}
	}
}

// A long tick holds up no stop.
func TestStopDoesNotWaitForTheTick(t *testing.T) {
	s := defaults
	s.Coalesce = MaxCoalesce
	in := start(t, s, localUDP)
	conn := in.dial(t, 0)
	for i := range 5 { // it gathers
		write(t, conn, fmt.Sprintf("a.%d\n", i))
	}
	in.came(t, "a.0")
	before := time.Now()
	in.stop()
	if n := strings.Join(in.Lines(), " "); !strings.Contains(n, "a.4") {
		t.Errorf("got %q", n)
	}
	t.Log(time.Since(before)) // a figure, no verdict
}

// Where many connections bring much, few are read at a time: what they all have to be read
// into, and how long all else waits, is bounded.
func TestBusyConnectionsTakeTurns(t *testing.T) {
	const senders, lines = 100, 300
	in := bound(t, nil, localTCP)
	var inside, most atomic.Int64
	in.newHandler = func(line.Protocol, func() string) Handler { return &slowPupil{pupil{book: in.book}, &inside, &most} }
	in.run(t, defaults)
	line := strings.Repeat("x", 999) + "\n"
	var sending sync.WaitGroup
	for range senders {
		conn := in.dial(t, 0)
		sending.Go(func() { write(t, conn, strings.Repeat(line, lines)) })
	}
	sending.Wait()
	eventually(t, "all lines", func() bool { return len(in.Lines()) == senders*lines })
	if n := most.Load(); n > crowd+int64(runtime.GOMAXPROCS(0)) {
		t.Errorf("%d of %d were read at once", n, senders)
	}
}

// A slowPupil lets others go on while it takes a block.
type slowPupil struct {
	pupil
	inside, most *atomic.Int64 // of all
}

func (p *slowPupil) Stream(data []byte) []byte {
	n := p.inside.Add(1)
	defer p.inside.Add(-1)
	for most := p.most.Load(); n > most && !p.most.CompareAndSwap(most, n); most = p.most.Load() {
	}
	for range 100 {
		runtime.Gosched()
	}
	return p.pupil.Stream(data)
}

// Of large datagrams, those of one read are handed over in parts: a handler need not hold them all.
func TestLargeDatagramsInParts(t *testing.T) {
	const senders, size = 8, 200_000
	a := address.Address{Network: "unixgram", Path: socketPath(t, "d")}
	in := bound(t, nil, a)
	var most atomic.Int64
	in.newHandler = func(line.Protocol, func() string) Handler { return &measuring{pupil{book: in.book}, &most, 0} }
	for range senders { // they wait in the socket, for one read
		conn := in.dial(t, 0)
		conn.(*net.UnixConn).SetWriteBuffer(size)
		write(t, conn, strings.Repeat("x", size-1)+"\n")
	}
	in.run(t, defaults)
	eventually(t, "all datagrams", func() bool { return len(in.Lines()) == senders })
	if n := most.Load(); n > keptRoom+size {
		t.Errorf("%d bytes were handed over at once", n)
	}
}

// A measuring notes how much it is given from Begin to End, at most.
type measuring struct {
	pupil
	most  *atomic.Int64
	given int
}

func (m *measuring) Begin(at time.Time) {
	m.given = 0
	m.pupil.Begin(at)
}

func (m *measuring) Datagram(data []byte, lost int) {
	m.given += len(data)
	m.most.Store(max(m.most.Load(), int64(m.given)))
	m.pupil.Datagram(data, lost)
}
