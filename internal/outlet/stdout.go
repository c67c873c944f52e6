package outlet

import (
	"context"
	"io"
	"time"
)

// stdout is no server: it takes all, and what it took is delivered.
type stdout struct {
	w       io.Writer
	written uint64
}

func (l *stdout) write(lines []byte, _ time.Duration) (int, error) {
	n, err := l.w.Write(lines)
	l.written += uint64(n)
	return n, err
}

func (l *stdout) look(time.Time, time.Duration) (Peer, error) { return Peer{Acked: l.written}, nil }

func (l *stdout) watch() error                               { return nil }
func (l *stdout) probe(context.Context, time.Duration) error { return nil }
func (l *stdout) interrupt()                                 {}
func (l *stdout) narrow(bool)                                {}
func (l *stdout) closeWrite() (bool, error)                  { return false, nil }
func (l *stdout) close()                                     {}
func (l *stdout) reset()                                     {}
