//go:build unix && !linux

package outlet

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

// A datagram is a connected UDP or unixgram socket.
type datagram struct {
	conn net.Conn
	max  int // bytes of payload
	sent uint64
}

// newDatagram takes a connection.
func newDatagram(conn syscall.Conn, _ string, size int, _ bool) (*datagram, error) {
	fd := -1
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctlErr := raw.Control(func(old uintptr) { fd, err = syscall.Dup(int(old)) })
	if err := errors.Join(err, ctlErr); err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "datagram")
	defer file.Close()
	copied, err := net.FileConn(file)
	if err != nil {
		return nil, err
	}
	return &datagram{conn: copied, max: size}, nil
}

func (l *datagram) write(lines []byte, limit time.Duration) (int, error) {
	l.conn.SetWriteDeadline(time.Now().Add(limit))
	n, err := l.conn.Write(lines[:packetEnd(lines, l.max)])
	l.sent += uint64(n)
	if errors.Is(err, syscall.EMSGSIZE) {
		err = errTooLong
	}
	return n, err
}

func (l *datagram) look(time.Time, time.Duration) (Peer, error) { return Peer{Acked: l.sent}, nil }

func (l *datagram) watch() error                               { return nil }
func (l *datagram) probe(context.Context, time.Duration) error { return nil }
func (l *datagram) interrupt()                                 {}
func (l *datagram) narrow(bool)                                {}
func (l *datagram) closeWrite() (bool, error)                  { return false, nil }
func (l *datagram) close()                                     { l.conn.Close() }
func (l *datagram) reset()                                     { l.close() }
