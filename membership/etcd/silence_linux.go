package etcd

import (
	"net"

	"golang.org/x/sys/unix"
)

// boundSilence ends a connection whose peer has acknowledged nothing for 5 s.
func boundSilence(conn net.Conn) {
	if raw, err := conn.(*net.TCPConn).SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) {
			unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 5000) // else gRPC's pings find out
		})
	}
}
