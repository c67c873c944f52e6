package poll

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Errors tells when a socket that the runtime does not poll has an error to tell; and nothing
// else, for which a thread would wake.
type Errors struct {
	epfd int
	file *os.File // epfd, as the runtime polls it
}

// ErrorsOf returns the Errors of the socket fd.
func ErrorsOf(fd int) (*Errors, error) {
	epfd, file, err := newEpoll()
	if err != nil {
		return nil, err
	}
	if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{}); err != nil {
		file.Close()
		return nil, fmt.Errorf("poll a socket: %w", err)
	}
	return &Errors{epfd: epfd, file: file}, nil
}

// Wait returns nil when there is an error, until all that are there have been taken; its own
// when e is closed.
func (e *Errors) Wait() error {
	return waitFor(e.file, func() bool {
		var event [1]unix.EpollEvent
		n, _ := unix.EpollWait(e.epfd, event[:], 0)
		return n > 0 && event[0].Events&unix.EPOLLERR != 0
	})
}

func (e *Errors) Close() { e.file.Close() }
