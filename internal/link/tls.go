package link

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
)

// TLS says how the server of a tls:// address is known, and who we are.
type TLS struct {
	// CA is a PEM file of those who may have signed the server's certificate; "":
	// the system's list, as it was when it was first needed. The files are read anew at
	// each connect.
	CA string `yaml:"ca"`

	// Cert and Key are PEM files of our own certificate, for servers that want one.
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`

	// ServerName is what the server's certificate must be for; "": the host of the
	// address.
	ServerName string `yaml:"server_name"`
}

// config reads the files and says how to speak with a host.
func (t TLS) config(host string) (*tls.Config, error) {
	c, err := conf.ReadTLS(t.CA, t.Cert, t.Key)
	if err != nil {
		return nil, fmt.Errorf("tls: %w", err)
	}
	c.ServerName = cmp.Or(t.ServerName, host)
	c.DynamicRecordSizingDisabled = true // nobody waits for the first bytes
	return c, nil
}

// tlsLink is TLS above a stream. A line is acknowledged when all ciphertext is that
// was made of it, and of what went before.
type tlsLink struct {
	*stream
	conn    *tls.Conn
	records *records

	plain uint64 // bytes that write took
	marks []mark // the oldest first
	acked uint64 // bytes of plain
}

// A mark says that so much ciphertext holds so much of the lines.
type mark struct{ cipher, plain uint64 }

// startTLS shakes hands with a host on a stream, which it takes.
func startTLS(ctx context.Context, s *stream, t TLS, host string) (*tlsLink, error) {
	c, err := t.config(host)
	if err != nil {
		s.Close()
		return nil, err
	}
	r := &records{streamConn: s.conn, through: true}
	l := &tlsLink{stream: s, records: r, conn: tls.Client(r, c)}
	began := time.Now()
	if err := l.conn.HandshakeContext(ctx); err != nil {
		s.Close()
		return nil, fmt.Errorf("TLS with %s: %w", c.ServerName, handshakeError(err, time.Since(began)))
	}
	r.through, s.written = false, r.made
	return l, nil
}

// handshakeError says in words what is wrong with a server that does not shake hands.
func handshakeError(err error, after time.Duration) error {
	const hint = "a server without TLS, or another port?"
	switch _, isPlain := errors.AsType[tls.RecordHeaderError](err); {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w within %v (%s)", ErrUnanswered, after.Round(100*time.Millisecond), hint)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w in the handshake (%s)", ErrClosed, hint)
	case isPlain:
		return fmt.Errorf("the answer is not TLS (%s)", hint)
	}
	return err
}

// records is the connection as crypto/tls sees it. After the handshake it holds
// ciphertext back, so that no write of crypto/tls ever waits: one that times out
// could not be followed by another.
type records struct {
	streamConn

	mu      sync.Mutex // the reader may answer, too
	through bool       // nothing is held back
	held    []byte     // the kernel has not taken
	made    uint64     // bytes of ciphertext, in all
}

func (r *records) Write(b []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.made += uint64(len(b))
	if r.through {
		return r.streamConn.Write(b)
	}
	r.held = append(r.held, b...)
	return len(b), nil
}

// maxPlain is how many bytes of lines are encrypted at once.
const maxPlain = 64 << 10

// flush hands the kernel what is held, and says whether it took all.
func (l *tlsLink) flush(limit time.Duration) (all bool, err error) {
	l.records.mu.Lock()
	defer l.records.mu.Unlock()
	held := l.records.held
	if len(held) == 0 {
		return true, nil
	}
	n, err := l.stream.Write(held, limit)
	l.records.held = held[:copy(held, held[n:])]
	return n == len(held), err
}

func (l *tlsLink) Write(lines []byte, limit time.Duration) (int, error) {
	if all, err := l.flush(limit); !all || err != nil {
		return 0, err
	}
	n, err := l.conn.Write(lines[:min(len(lines), maxPlain)])
	if err != nil {
		return 0, err
	}
	l.plain += uint64(n)
	l.records.mu.Lock()
	l.marks = append(l.marks, mark{l.records.made, l.plain})
	l.records.mu.Unlock()
	_, err = l.flush(limit)
	return n, err
}

func (l *tlsLink) Look() (Peer, error) {
	if _, err := l.flush(time.Millisecond); err != nil {
		return Peer{Acked: l.acked}, err
	}
	peer, err := l.stream.Look()
	done := 0
	for ; done < len(l.marks) && l.marks[done].cipher <= peer.Acked; done++ {
		l.acked = l.marks[done].plain
	}
	l.marks = l.marks[:copy(l.marks, l.marks[done:])]
	peer.Acked = l.acked
	return peer, err
}

func (l *tlsLink) Watch() ([]byte, error) { return readToEnd(l.conn) }

func (l *tlsLink) CloseWrite() (bool, error) {
	if err := l.conn.CloseWrite(); err != nil {
		return false, err
	}
	if all, err := l.flush(time.Second); !all || err != nil {
		return false, errors.Join(err, errors.New("the server took only a part of a record"))
	}
	return l.stream.CloseWrite()
}
