package unit

import (
	"fmt"
	"os"
	"strconv"
	"syscall"

	"github.com/coreos/go-systemd/v22/activation"
)

// firstSocket is the descriptor of the first socket that systemd passes: sd_listen_fds(3).
const firstSocket = 3

// Sockets returns the sockets that systemd passes to us. Only the environment says how many there
// are: no other descriptor, such as one of Go's runtime, may be taken for one.
func Sockets() ([]*os.File, error) {
	if os.Getenv("LISTEN_PID") == strconv.Itoa(os.Getpid()) {
		n, _ := strconv.Atoi(os.Getenv("LISTEN_FDS"))
		for fd := firstSocket; fd < firstSocket+n; fd++ {
			if _, err := syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_TYPE); err != nil {
				return nil, fmt.Errorf("LISTEN_FDS=%d: descriptor %d is not a socket: %w", n, fd, err)
			}
		}
	}
	return activation.Files(true), nil
}
