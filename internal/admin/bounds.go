package admin

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// What the pages may cost, however many ask for them: the rest is closed, or gets
// 503.
// A connection is a descriptor and some 30 KiB; a request, a processor while it is
// answered.
const (
	maxConnections = 32              // and an eighth of the descriptors of this process
	maxRequests    = 2               // answered at a time
	requestWait    = 2 * time.Second // for its turn
	smallAnswer    = 64 << 10        // bytes
	largeAnswers   = 4 << 20         // bytes of longer ones that are being written, or one alone

	// Where there are too many connections, a new one waits so long for room, and those behind it
	// in the kernel's backlog.
	roomWait = time.Second

	retryAccept = 10 * time.Millisecond // where it fails
)

// What a client does, in the order in which they make room for another one.
type stage int

const (
	idle   stage = iota
	asking       // a part of its request has come
	asked
)

// graces are for how long a client has been at a stage, at least, when it makes room. What has
// come and is not read, since the host had no time for it, was sent at once.
var graces = [...]time.Duration{idle: time.Millisecond, asking: 5 * time.Millisecond, asked: 2 * time.Second}

// connections are those that are open. Any goroutine may use them.
type connections struct {
	most  int
	mu    sync.Mutex
	open  map[*client]struct{}
	freed chan struct{} // cap 1: there may be room
}

func newConnections() *connections {
	return &connections{
		most: min(maxConnections, max(1, sockets.Descriptors()/8)),
		open: map[*client]struct{}{}, freed: make(chan struct{}, 1),
	}
}

// A client is an open connection.
type client struct {
	net.Conn
	all *connections

	stage stage // all.mu is held to use it
	since time.Time
}

// Read implements net.Conn.
func (c *client) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.all.mu.Lock()
		defer c.all.mu.Unlock()
		if c.stage == idle {
			c.stage, c.since = asking, time.Now()
		}
	}
	return n, err
}

// end ends the connection. Where a request may have been read just now, it is answered first.
func (c *client) end() {
	if half, ok := c.Conn.(interface{ CloseRead() error }); ok && c.stage != asked {
		half.CloseRead()
	} else {
		c.Close()
	}
}

// hasInput says whether something has come that is not read yet.
func (c *client) hasInput() (has bool) {
	socket, ok := c.Conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return false
	}
	raw.Control(func(fd uintptr) { has = poll.HasInput(int(fd)) })
	return has
}

// admit returns conn as a client when there is room for it; nil if there is none for so long.
func (c *connections) admit(conn net.Conn) *client {
	for until := time.Now().Add(roomWait); time.Now().Before(until); {
		if admitted := c.enter(conn, time.Now()); admitted != nil {
			return admitted
		}
		select {
		case <-c.freed:
		case <-time.After(graces[idle]):
		}
	}
	return nil
}

func (c *connections) enter(conn net.Conn, now time.Time) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= c.most && !c.makeRoom(now) {
		return nil
	}
	admitted := &client{conn, c, idle, now}
	c.open[admitted] = struct{}{}
	return admitted
}

// makeRoom ends the client that has been at the earliest stage for longest, if that is long
// enough; or else one at a later stage. mu is held.
func (c *connections) makeRoom(now time.Time) bool {
	for at, grace := range graces {
		for {
			longest := c.longest(stage(at))
			if longest == nil || now.Sub(longest.since) < grace {
				break
			}
			if stage(at) == asked || !longest.hasInput() {
				delete(c.open, longest)
				longest.end()
				return true
			}
			longest.since = now // it is we who have not looked
		}
	}
	return false
}

// longest returns the client that has been at a stage for longest; nil if none is. mu is held.
func (c *connections) longest(at stage) (longest *client) {
	for other := range c.open {
		if other.stage == at && (longest == nil || other.since.Before(longest.since)) {
			longest = other
		}
	}
	return longest
}

// note is told by the server what a connection does.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client := conn.(*client)
	switch state {
	case http.StateActive: // its request is read
		client.stage, client.since = asked, time.Now()
	case http.StateIdle:
		client.stage, client.since = idle, time.Now()
	case http.StateClosed, http.StateHijacked:
		delete(c.open, client)
		select {
		case c.freed <- struct{}{}:
		default:
		}
	}
}

// A boundedListener refuses what is too much: nobody can use up the descriptors of the
// process.
type boundedListener struct {
	net.Listener
	connections *connections
}

// Accept returns the next connection for which there is room. What accept(2) fails for, a
// connection that has failed or want of memory, is over soon: it does not end the server.
func (l boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			time.Sleep(retryAccept)
			continue
		}
		if admitted := l.connections.admit(conn); admitted != nil {
			return admitted, nil
		}
		conn.Close() // a 503 that nobody has asked for would confuse some clients
	}
}

// bounded answers maxRequests at a time, and writes what next answers when it has answered: who
// reads slowly keeps no other waiting, unless all answers together take too much memory. Who asks
// for the same as one that still waits for its turn shares its answer, even if that one is gone:
// however many ask for it, they cost no more than one.
func bounded(next http.Handler) http.Handler {
	turns := make(chan struct{}, maxRequests)
	room := semaphore.NewWeighted(largeAnswers)
	var waiting singleflight.Group // by request
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request := fmt.Sprint(r.Method, r.URL, r.Header)
		made, _, _ := waiting.Do(request, func() (any, error) {
			a := &answer{header: http.Header{}, code: http.StatusOK}
			select {
			case turns <- struct{}{}:
				defer func() { <-turns }()
				waiting.Forget(request) // what it says is too old for who comes from now on
				next.ServeHTTP(a, r)
			case <-time.After(requestWait):
				a.refuse()
			}
			return a, nil
		})
		a := made.(*answer)
		if n := min(int64(a.body.Len()), largeAnswers); n > smallAnswer {
			if room.TryAcquire(n) {
				defer room.Release(n)
			} else {
				a = &answer{header: http.Header{}}
				a.refuse()
			}
		}
		maps.Copy(w.Header(), a.header)
		w.WriteHeader(a.code)
		w.Write(a.body.Bytes())
	})
}

// An answer is an http.ResponseWriter that keeps what it is given.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// WriteHeader takes back what was written before.
func (a *answer) WriteHeader(code int) {
	a.code = code
	a.body.Reset()
}

func (a *answer) refuse() {
	a.header.Set("Retry-After", "1")
	http.Error(a, "too many requests at a time", http.StatusServiceUnavailable)
}
