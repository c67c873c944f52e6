//go:build unix && !linux

package link

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// A datagram is a connected UDP or unixgram socket.
type datagram struct {
	oneWay
	conn net.Conn
	max  int // bytes of payload
	sent uint64
}

// newDatagram takes a connection.
func newDatagram(conn net.Conn, _ string, size int) (*datagram, error) {
	return &datagram{conn: conn, max: size}, nil
}

func (l *datagram) Write(lines []byte, limit time.Duration) (int, error) {
	l.conn.SetWriteDeadline(time.Now().Add(limit))
	n, err := l.conn.Write(lines[:PacketEnd(lines, l.max)])
	l.sent += uint64(n)
	if errors.Is(err, syscall.EMSGSIZE) {
		err = ErrTooLong
	}
	return n, err
}

func (l *datagram) Look() (Peer, error) { return Peer{Acked: l.sent}, nil }
func (l *datagram) Close()              { l.conn.Close() }
func (l *datagram) Reset()              { l.Close() }
