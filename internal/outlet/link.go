package outlet

import (
	"errors"
	"time"
)

// A link is a connection to a server, of whatever kind. One goroutine sends on it
// and closes it; watch alone may run beside.
type link interface {
	// write hands the kernel what it takes of lines, and waits for room for no
	// longer than limit; having waited in vain is no error. What it took may end in
	// the middle of a line, unless it goes in datagrams. errTooLong: the first line
	// fits into none.
	write(lines []byte, limit time.Duration) (n int, err error)

	// look says what is known of the peer, where the link can tell, and returns an
	// error if it is gone.
	look() (Peer, error)

	// bound makes the kernel give up when the peer has taken nothing for d, even if we
	// are no more.
	bound(d time.Duration) error

	// watch returns when the peer ends the connection: errClosed, if in order; and the
	// beginning of what it said, though it has nothing to say. It may return nil at once,
	// where look tells.
	watch() (said []byte, err error)

	// narrow bounds what the kernel takes that it cannot send yet, or ends that.
	narrow(is bool)

	// closeWrite says that no more will come. It returns whether the peer, when it
	// has taken all, will close, too.
	closeWrite() (answers bool, err error)

	// close ends the connection. The kernel goes on to send what it has.
	close()

	// reset ends the connection; what the kernel has not sent is lost.
	reset()
}

// oneWay is the part of a link to a server that says nothing, not even that it ends.
type oneWay struct{}

func (oneWay) watch() ([]byte, error)    { return nil, nil }
func (oneWay) bound(time.Duration) error { return nil }
func (oneWay) narrow(bool)               {}
func (oneWay) closeWrite() (bool, error) { return false, nil }

var (
	// errClosed says that the peer will send no more. It may still read.
	errClosed = errors.New("closed by the server")

	errTooLong = errors.New("line longer than any datagram")
	errGone    = errors.New("the server's host answers no more")
)
