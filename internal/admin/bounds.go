package admin

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/sync/singleflight"

	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/sockets"
)

// What the pages may cost, however many clients ask for them: others are disconnected, or get 503.
// A connection costs a descriptor and about 30 KiB; an answer, a processor while it is made.
const (
	maxConnections = 32              // and an eighth of this process's descriptors
	maxRequests    = 2               // answered at a time
	requestWait    = 2 * time.Second // for its turn
	smallAnswer    = 64 << 10        // bytes
	largeAnswers   = 4 << 20         // bytes of longer answers being written; a single one may exceed it

	// At maxConnections, a client that has had this long to ask, or to read its answer, makes room
	// for another.
	askTime    = 5 * time.Millisecond
	answerTime = 2 * time.Second

	// How long a new connection waits for room; those behind it wait in the kernel's backlog.
	roomWait = time.Second

	retryAccept = 10 * time.Millisecond // if accept fails
)

// connections are the open ones. Any goroutine may use them.
type connections struct {
	most int
	mu   sync.Mutex
	open map[*client]struct{}
}

func newConnections() *connections {
	return &connections{most: min(maxConnections, max(1, sockets.Descriptors()/8)), open: map[*client]struct{}{}}
}

// A client is an open connection. The mutex of the connections guards it.
type client struct {
	socket
	asked bool      // its request has been read
	until time.Time // when it must make room, if there is none
}

// A socket is a TCP or unix connection.
type socket interface {
	net.Conn
	syscall.Conn
	CloseRead() error
}

// end ends the connection. A request that may have been read just now is still answered.
func (c *client) end() {
	if c.asked {
		c.Close()
	} else {
		c.CloseRead()
	}
}

// hasInput reports whether there is input that has not been read.
func (c *client) hasInput() (has bool) {
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { has = poll.HasInput(int(fd)) })
	}
	return has && err == nil
}

// admit makes a connection a client as soon as there is room, or returns nil after roomWait.
func (c *connections) admit(s socket) *client {
	for until := time.Now().Add(roomWait); time.Now().Before(until); time.Sleep(time.Millisecond) {
		if admitted := c.enter(s, time.Now()); admitted != nil {
			return admitted
		}
	}
	return nil
}

func (c *connections) enter(s socket, now time.Time) *client {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= c.most && !c.makeRoom(now) {
		return nil
	}
	admitted := &client{s, false, now.Add(askTime)}
	c.open[admitted] = struct{}{}
	return admitted
}

// makeRoom ends the client whose time was up first, if any. One whose request has arrived, but has
// not been read because the host was busy, gets more time. mu is held.
func (c *connections) makeRoom(now time.Time) bool {
	for {
		first := slices.MinFunc(slices.Collect(maps.Keys(c.open)), func(a, b *client) int { return a.until.Compare(b.until) })
		switch {
		case now.Before(first.until):
			return false
		case !first.asked && first.hasInput():
			first.until = now.Add(askTime)
			continue
		}
		delete(c.open, first)
		first.end()
		return true
	}
}

// note is the http.Server's ConnState.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client := conn.(*client)
	switch state {
	case http.StateActive: // its request has been read
		client.asked, client.until = true, time.Now().Add(answerTime)
	case http.StateClosed:
		delete(c.open, client)
	}
}

// A boundedListener refuses connections beyond the bound: nobody can use up the descriptors of the
// process.
type boundedListener struct {
	net.Listener
	connections *connections
}

// Accept returns the next connection for which there is room. An error of accept(2) (a failed
// connection, a lack of memory) is soon over: it does not end the server.
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
		if admitted := l.connections.admit(conn.(socket)); admitted != nil {
			return admitted, nil
		}
		conn.Close() // a 503 before any request would confuse some clients
	}
}

// limits let maxRequests be answered at a time. An answer is written after it is complete, so that a
// slow reader keeps nobody waiting, unless all answers together take too much memory. A request
// that equals one that still waits for its turn shares its answer, even if that client is gone:
// however many ask for the same, they cost no more than one.
type limits struct {
	turns   chan struct{}
	room    *semaphore.Weighted
	waiting singleflight.Group // by request
}

func newLimits() *limits {
	return &limits{turns: make(chan struct{}, maxRequests), room: semaphore.NewWeighted(largeAnswers)}
}

// bound applies the limits to next.
func (l *limits) bound(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := l.answer(next, r)
		if n := min(int64(a.body.Len()), largeAnswers); n > smallAnswer {
			if l.room.TryAcquire(n) {
				defer l.room.Release(n)
			} else {
				a = refusal()
			}
		}
		maps.Copy(w.Header(), a.header)
		w.WriteHeader(a.code)
		w.Write(a.body.Bytes())
	})
}

// answer returns what next answers when it is the request's turn.
func (l *limits) answer(next http.Handler, r *http.Request) *answer {
	request := fmt.Sprint(r.Method, r.URL, r.Header)
	made, _, _ := l.waiting.Do(request, func() (any, error) {
		select {
		case l.turns <- struct{}{}:
		case <-time.After(requestWait):
			return refusal(), nil
		}
		defer func() { <-l.turns }()
		l.waiting.Forget(request) // later requests get a newer answer
		a := newAnswer()
		next.ServeHTTP(a, r)
		return a, nil
	})
	return made.(*answer)
}

// An answer is an http.ResponseWriter that keeps what is written to it.
type answer struct {
	header http.Header
	code   int
	body   bytes.Buffer
}

func newAnswer() *answer { return &answer{header: http.Header{}, code: http.StatusOK} }

func refusal() *answer {
	a := newAnswer()
	a.header.Set("Retry-After", "1")
	http.Error(a, "too many requests at a time", http.StatusServiceUnavailable)
	return a
}

func (a *answer) Header() http.Header         { return a.header }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }

// WriteHeader discards what was written before.
func (a *answer) WriteHeader(code int) {
	a.code = code
	a.body.Reset()
}
