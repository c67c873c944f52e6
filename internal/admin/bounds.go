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

// What the pages may cost, however many ask for them: the rest is closed, or gets
// 503.
// A connection is a request, a descriptor and some 30 KiB; an answer, a processor while it is
// made.
const (
	maxConnections = 32              // and an eighth of the descriptors of this process
	maxRequests    = 2               // answered at a time
	requestWait    = 2 * time.Second // for its turn
	smallAnswer    = 64 << 10        // bytes
	largeAnswers   = 4 << 20         // bytes of longer ones that are being written, or one alone

	// At the bound, who has had this long to ask, or for its answer, makes room for another.
	askTime    = 5 * time.Millisecond
	answerTime = 2 * time.Second

	// Where there are too many connections, a new one waits so long for room, and those behind it
	// in the kernel's backlog.
	roomWait = time.Second

	retryAccept = 10 * time.Millisecond // where it fails
)

// connections are those that are open. Any goroutine may use them.
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
	asked bool      // its request is read
	until time.Time // it makes no room before
}

// A socket is a connection by TCP, or by a unix socket.
type socket interface {
	net.Conn
	syscall.Conn
	CloseRead() error
}

// end ends the connection. Where a request may have been read just now, it is answered first.
func (c *client) end() {
	if c.asked {
		c.Close()
	} else {
		c.CloseRead()
	}
}

// hasInput says whether something has come that is not read yet.
func (c *client) hasInput() (has bool) {
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { has = poll.HasInput(int(fd)) })
	}
	return has && err == nil
}

// admit returns a connection as a client when there is room for it; nil if there is none for so
// long.
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

// makeRoom ends the client whose time was over first. What has come and is not read, since the
// host had no time for it, was sent at once. mu is held.
func (c *connections) makeRoom(now time.Time) bool {
	for {
		first := slices.MinFunc(slices.Collect(maps.Keys(c.open)), func(a, b *client) int { return a.until.Compare(b.until) })
		switch {
		case now.Before(first.until):
			return false
		case !first.asked && first.hasInput(): // it is we who have not looked
			first.until = now.Add(askTime)
			continue
		}
		delete(c.open, first)
		first.end()
		return true
	}
}

// note is told by the server what a connection does.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	client := conn.(*client)
	switch state {
	case http.StateActive: // its request is read
		client.asked, client.until = true, time.Now().Add(answerTime)
	case http.StateClosed:
		delete(c.open, client)
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
		if admitted := l.connections.admit(conn.(socket)); admitted != nil {
			return admitted, nil
		}
		conn.Close() // a 503 that nobody has asked for would confuse some clients
	}
}

// limits let maxRequests be answered at a time, and their answers be written when they are made:
// who reads slowly keeps no other waiting, unless all answers together take too much memory. Who
// asks for the same as one that still waits for its turn shares its answer, even if that one is
// gone: however many ask for it, they cost no more than one.
type limits struct {
	turns   chan struct{}
	room    *semaphore.Weighted
	waiting singleflight.Group // by request
}

func newLimits() *limits {
	return &limits{turns: make(chan struct{}, maxRequests), room: semaphore.NewWeighted(largeAnswers)}
}

// bound returns next within the limits.
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

// answer returns what next answers, when it has its turn.
func (l *limits) answer(next http.Handler, r *http.Request) *answer {
	request := fmt.Sprint(r.Method, r.URL, r.Header)
	made, _, _ := l.waiting.Do(request, func() (any, error) {
		select {
		case l.turns <- struct{}{}:
		case <-time.After(requestWait):
			return refusal(), nil
		}
		defer func() { <-l.turns }()
		l.waiting.Forget(request) // what it says is too old for who comes from now on
		a := newAnswer()
		next.ServeHTTP(a, r)
		return a, nil
	})
	return made.(*answer)
}

// An answer is an http.ResponseWriter that keeps what it is given.
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

// WriteHeader takes back what was written before.
func (a *answer) WriteHeader(code int) {
	a.code = code
	a.body.Reset()
}
