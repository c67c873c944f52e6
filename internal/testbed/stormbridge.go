//go:build linux

package testbed

import (
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// A passage is what a bridge does with connections. The zero value lets all
// through at once.
type passage struct {
	cut         bool          // connections are reset, and so are new ones
	there, back bool          // nothing passes in this direction, as seen from who connects; it waits
	delay       time.Duration // of each piece, in either direction
}

// A bridge passes TCP connections on, and can stop to.
//
//	who connects ──there──► bridge ──► target
//	             ◄──back───        ◄──
//
// What it holds back is passed when it lets through again, as TCP would send it
// again after a network has healed.
type bridge struct {
	target string
	who    func(net.Conn) int // connects; nil: always 0
	ln     net.Listener
	work   sync.WaitGroup

	mu       sync.Mutex
	closed   bool
	passages map[int]passage // by who connects
	changed  chan struct{}   // closed at the next change of these
	conns    map[net.Conn]int
}

// newBridge starts a bridge that listens at addr. It ends with the test.
func newBridge(t testing.TB, addr, target string, who func(net.Conn) int) *bridge {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	b := &bridge{target: target, who: who, ln: ln, passages: map[int]passage{}, changed: make(chan struct{}), conns: map[net.Conn]int{}}
	b.work.Go(b.accept)
	t.Cleanup(b.close)
	return b
}

func (b *bridge) close() {
	b.ln.Close()
	b.mu.Lock()
	b.closed = true
	for conn := range b.conns {
		conn.Close()
	}
	b.tell()
	b.mu.Unlock()
	b.work.Wait()
}

// set changes the passage of those connections that who made, or will make.
func (b *bridge) set(who int, p passage) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.passages[who] = p
	for conn, maker := range b.conns {
		if p.cut && maker == who {
			reset(conn)
		}
	}
	b.tell()
}

// tell wakes up who waits for a change. The caller holds mu.
func (b *bridge) tell() {
	close(b.changed)
	b.changed = make(chan struct{})
}

func (b *bridge) accept() {
	for {
		conn, err := b.ln.Accept()
		if err != nil {
			return
		}
		b.work.Go(func() { b.carry(conn) })
	}
}

// carry carries one connection to its end.
func (b *bridge) carry(conn net.Conn) {
	who := 0
	if b.who != nil {
		who = b.who(conn)
	}
	if !b.enlist(conn, who) {
		reset(conn)
		return
	}
	defer b.strike(conn)
	target, err := net.DialTimeout("tcp", b.target, 5*time.Second)
	if err != nil {
		reset(conn)
		return
	}
	if !b.enlist(target, who) {
		reset(conn)
		reset(target)
		return
	}
	defer b.strike(target)
	var pumps sync.WaitGroup
	pumps.Go(func() { b.pump(target, conn, who, func(p passage) bool { return p.there }) })
	pumps.Go(func() { b.pump(conn, target, who, func(p passage) bool { return p.back }) })
	pumps.Wait()
}

// enlist notes an open connection; false: none is wanted.
func (b *bridge) enlist(conn net.Conn, who int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.passages[who].cut {
		return false
	}
	b.conns[conn] = who
	return true
}

func (b *bridge) strike(conn net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.conns, conn)
	conn.Close()
}

// pump passes on what comes from src, and its end, when they may pass.
func (b *bridge) pump(dst, src net.Conn, who int, blocked func(passage) bool) {
	piece := make([]byte, 16<<10)
	for {
		n, err := src.Read(piece)
		b.await(who, blocked)
		if n > 0 {
			if _, werr := dst.Write(piece[:n]); werr != nil {
				err = werr
			}
		}
		if err == io.EOF {
			dst.(*net.TCPConn).CloseWrite()
			return
		}
		if err != nil {
			reset(dst)
			reset(src)
			return
		}
	}
}

// await returns when a piece may pass.
func (b *bridge) await(who int, blocked func(passage) bool) {
	for delayed := false; ; {
		b.mu.Lock()
		p, changed, closed := b.passages[who], b.changed, b.closed
		b.mu.Unlock()
		switch {
		case closed || p.cut:
			return
		case blocked(p):
			<-changed
		case p.delay > 0 && !delayed:
			delayed = true
			select {
			case <-time.After(p.delay):
			case <-changed:
			}
		default:
			return
		}
	}
}

// reset closes a connection without a good end.
func reset(conn net.Conn) {
	conn.(*net.TCPConn).SetLinger(0)
	conn.Close()
}
