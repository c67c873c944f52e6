package inlet

import "golang.org/x/sys/unix"

// acceptFD accepts a connection, without waiting; EAGAIN: there is none.
func acceptFD(listening int) (fd int, from unix.Sockaddr, err error) {
	return unix.Accept4(listening, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
}
