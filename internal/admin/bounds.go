package admin

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"
)

// What the pages may cost, however many ask for them: the rest is closed, or gets
// 503.
// A connection is a descriptor and some 30 KiB; a request, a processor while it is
// answered.
const (
	maxConnections = 32
	maxRequests    = 2               // answered at a time
	requestWait    = 2 * time.Second // for its turn

	// Where there are too many connections, and none can make room, a new one waits for that, and
	// those behind it in the kernel's backlog: but not while one of them is idle, since a flood
	// of connections that say nothing would fill that.
	roomWait = 250 * time.Millisecond
)

// What a connection does, in the order in which they make room for another one.
type stage int

const (
	idle stage = iota
	asking
	asked
)

// graces are for how long a connection has been at a stage, at least, when it makes room.
var graces = [...]time.Duration{idle: 10 * time.Millisecond, asking: 100 * time.Millisecond, asked: 2 * time.Second}

// connections are those that are open. Any goroutine may use them.
type connections struct {
	mu    sync.Mutex
	open  map[net.Conn]connection
	freed chan struct{} // cap 1: there may be room
}

type connection struct {
	stage stage
	since time.Time
}

// admit says whether there is room for conn; while all are busy, it waits for that.
func (c *connections) admit(conn net.Conn) bool {
	for until := time.Now().Add(roomWait); !c.enter(conn, time.Now()); {
		if !c.allBusy() || time.Now().After(until) {
			return false
		}
		select {
		case <-c.freed:
		case <-time.After(graces[idle]):
		}
	}
	return true
}

func (c *connections) enter(conn net.Conn, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.open) >= maxConnections && !c.makeRoom(now) {
		return false
	}
	c.open[conn] = connection{idle, now}
	return true
}

func (c *connections) allBusy() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, state := range c.open {
		if state.stage == idle {
			return false
		}
	}
	return true
}

// makeRoom ends a connection of the earliest stage at which one has been for long: of these,
// the one that has been there longest.
func (c *connections) makeRoom(now time.Time) bool {
	for at, grace := range graces {
		var longest net.Conn
		for conn, state := range c.open {
			if state.stage == stage(at) && now.Sub(state.since) >= grace && (longest == nil || state.since.Before(c.open[longest].since)) {
				longest = conn
			}
		}
		if longest != nil {
			delete(c.open, longest)
			longest.Close()
			return true
		}
	}
	return false
}

// note is told by the server what a connection does.
func (c *connections) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, open := c.open[conn]; !open {
		return
	}
	switch state {
	case http.StateActive:
		c.open[conn] = connection{asking, time.Now()}
	case http.StateIdle:
		c.open[conn] = connection{idle, time.Now()}
	case http.StateClosed, http.StateHijacked:
		delete(c.open, conn)
		select {
		case c.freed <- struct{}{}:
		default:
		}
	}
}

// connKey is where a request's context has its connection.
type connKey struct{}

func withConn(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, conn)
}

// asked notes that the whole header of r has come.
func (c *connections) asked(r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if conn, ok := r.Context().Value(connKey{}).(net.Conn); ok && c.open[conn].stage == asking {
		c.open[conn] = connection{asked, time.Now()}
	}
}

// A boundedListener refuses what is too much: nobody can use up the descriptors of the
// process.
type boundedListener struct {
	net.Listener
	connections *connections
}

// Accept returns the next connection for which there is room.
func (l boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.connections.admit(conn) {
			return conn, err
		}
		conn.Close() // a 503 that nobody has asked for would confuse some clients
	}
}

// bounded answers maxRequests at a time, and writes what next answers when it has answered: who
// reads slowly keeps no other waiting.
func bounded(next http.Handler) http.Handler {
	t := turns{next: next, free: make(chan struct{}, maxRequests), waiting: map[string]*answer{}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a := t.answer(r)
		if !a.isWhole {
			w.Header().Set("Retry-After", "1")
			http.Error(w, "too many requests at a time", http.StatusServiceUnavailable)
			return
		}
		maps.Copy(w.Header(), a.header)
		w.WriteHeader(a.code)
		w.Write(a.body.Bytes())
	})
}

// turns are those of requests. Who asks for the same as one that still waits for its turn
// shares its answer: however many ask for it, they cost no more than one.
type turns struct {
	next http.Handler
	free chan struct{}

	mu      sync.Mutex
	waiting map[string]*answer // by request
}

// An answer is kept until it is whole.
type answer struct {
	done    chan struct{} // closed when it is whole, or will never be
	isWhole bool

	header http.Header
	code   int
	body   bytes.Buffer
}

// answer returns the answer of r; not a whole one when it takes too long.
func (t *turns) answer(r *http.Request) *answer {
	request := fmt.Sprint(r.Method, r.URL, r.Header)
	t.mu.Lock()
	a, isShared := t.waiting[request]
	if !isShared {
		a = &answer{done: make(chan struct{}), header: http.Header{}, code: http.StatusOK}
		t.waiting[request] = a
	}
	t.mu.Unlock()
	if !isShared {
		t.make(a, request, r)
	}
	<-a.done
	return a
}

// make makes an answer when it is its turn. Others may wait for it, even if who asked for it
// is gone.
func (t *turns) make(a *answer, request string, r *http.Request) {
	defer close(a.done)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), requestWait)
	defer cancel()
	var isTurn bool
	select {
	case t.free <- struct{}{}:
		defer func() { <-t.free }()
		isTurn = true
	case <-ctx.Done():
	}
	t.mu.Lock()
	delete(t.waiting, request) // what it says is too old for who comes from now on
	t.mu.Unlock()
	if isTurn {
		t.next.ServeHTTP(a, r)
		a.isWhole = true
	}
}

// Header, WriteHeader and Write make an answer of an http.ResponseWriter.
func (a *answer) Header() http.Header         { return a.header }
func (a *answer) WriteHeader(code int)        { a.code = code }
func (a *answer) Write(p []byte) (int, error) { return a.body.Write(p) }
