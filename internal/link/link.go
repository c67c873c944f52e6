// Package link makes connections to servers, on which lines are sent.
//
// There is a Link for each kind of server: a stream (TCP and unix sockets), TLS above one,
// datagrams (UDP and unixgram), and standard output. It knows one server, and not what else
// could be used in its place: that is package outlet.
//
// # Not promised
//
// What a link calls acknowledged, the peer's kernel has; or, for TCP, whatever stands in
// between. What went by datagram is taken for acknowledged unless the network says otherwise.
package link

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
)

// A Link is a connection to a server, of whatever kind. One goroutine sends on it
// and closes it; Watch alone may run beside.
type Link interface {
	// Write hands the kernel what it takes of lines, and waits for room for no
	// longer than limit; having waited in vain is no error. What it took may end in
	// the middle of a line, unless it goes in datagrams. ErrTooLong: the first line
	// fits into none.
	Write(lines []byte, limit time.Duration) (n int, err error)

	// Look says what is known of the peer, where the link can tell, and returns an
	// error if it is gone.
	Look() (Peer, error)

	// Bound makes the kernel give up when the peer has taken nothing for d, even if we
	// have died. It may do so sooner where the peer was Full before.
	Bound(d time.Duration) error

	// Watch returns when the peer ends the connection: ErrClosed, if in order; and the
	// beginning of what it said, which no server should. It may return nil at once, where
	// Look tells.
	Watch() (said []byte, err error)

	// Narrow says whether to bound what the kernel takes that it cannot send yet, or, where
	// nothing is acknowledged, how fast lines go.
	Narrow(is bool)

	// CloseWrite says that no more will come. It returns whether the peer, when it
	// has taken all, will close, too.
	CloseWrite() (answers bool, err error)

	// Close ends the connection. The kernel goes on to send what it has.
	Close()

	// Reset ends the connection; what the kernel has not sent is lost.
	Reset()
}

// A Peer is what a link knows of the other side.
type Peer struct {
	// Acked is how many bytes of those that were written its kernel has acknowledged; where
	// nothing acknowledges, how many ours took.
	Acked uint64

	// Window is what its kernel offers to take at once, in bytes: as much as it has offered,
	// its program may not have read of what is acknowledged. 0: not known.
	Window int64

	// Heard is how long ago its host has last answered, at most; 0: not known.
	Heard time.Duration

	// Silence is that, if it was asked something since; 0: it answers.
	Silence time.Duration

	// Full is for how long in total its kernel has had no room for what was to go, where that
	// matters to Bound.
	Full time.Duration
}

var (
	// ErrClosed says that the peer will send no more. It may still read.
	ErrClosed = errors.New("closed by the server")

	// ErrTooLong says that a line is longer than any datagram.
	ErrTooLong = errors.New("line longer than any datagram")

	// ErrUnanswered says that a server that can be connected to does not shake hands.
	ErrUnanswered = errors.New("the handshake was not answered")

	errOwnListener = errors.New("it is our own listener, and lines would run in circles: move one of the two to another port")
)

// oneWay is what links to servers have in common that say nothing, not even that they end.
type oneWay struct{}

func (oneWay) Bound(time.Duration) error { return nil }
func (oneWay) Watch() ([]byte, error)    { return nil, nil }
func (oneWay) Narrow(bool)               {}
func (oneWay) CloseWrite() (bool, error) { return false, nil }

// A Dialer connects to servers.
type Dialer struct {
	Stdout io.Writer // of stdout:

	// Resets says that a connection that fails, or that a dead process leaves behind, is
	// reset, since all that it did not deliver comes again. Otherwise no server is reset,
	// unless Reset is called.
	Resets bool

	// Own knows our listeners; nil: there are none.
	Own interface {
		// IsOwn says whether who dials at, in a network of package net, reaches one
		// of our listeners.
		IsOwn(network, at string) bool
	}
}

// A Way is how to speak with a server.
type Way struct {
	TLS         TLS
	MaxDatagram int  // bytes of payload
	Small       bool // by TCP, in packets that every network on the way carries
}

// What a packet of any network holds of TCP, in bytes: RFC 9293 (3.7.1) and RFC 8200 (5).
const (
	smallSegment4 = 576 - 40
	smallSegment6 = 1280 - 60
)

// smallSegments makes the segments of a connection small, in both directions. It must not be open yet.
func smallSegments(network, _ string, conn syscall.RawConn) (err error) {
	size := smallSegment4
	if network == "tcp6" {
		size = smallSegment6
	}
	ctlErr := conn.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, size) })
	return errors.Join(err, ctlErr)
}

// Dial connects to the server of a at the resolved address at.
func (d Dialer) Dial(ctx context.Context, a address.Upstream, at string, way Way) (Link, error) {
	network := a.Network
	if network == "tls" {
		network = "tcp"
	}
	switch {
	case network == "stdout":
		return &stdout{w: d.Stdout}, nil
	case d.Own != nil && d.Own.IsOwn(network, at):
		return nil, errOwnListener
	case a.Health != 0:
		if err := AskHealth(ctx, a, at); err != nil {
			return nil, err
		}
	}
	dialer := net.Dialer{}
	if way.Small && network == "tcp" {
		dialer.Control = smallSegments
	}
	conn, err := dialer.DialContext(ctx, network, at)
	if err != nil {
		return nil, err
	}
	if a.IsDatagram() {
		return newDatagram(conn, network, way.MaxDatagram)
	}
	l, err := newStream(conn.(streamConn), d.Resets)
	if err == nil && a.Network == "tls" {
		return startTLS(ctx, l, way.TLS, a.Host)
	}
	return l, err
}
