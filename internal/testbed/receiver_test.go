package testbed

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A receiver keeps whole lines, of each connection alone, and misbehaves as it is
// told to.
func TestReceiver(t *testing.T) {
	for _, tt := range []struct {
		what   string
		manner manner
		writes []string // each a connection
		want   []string
		reset  bool // what the last connection ends with
	}{
		{"lines", manner{}, []string{"a\nb\n", "c\n"}, []string{"a", "b", "c"}, false},
		{"a tail", manner{}, []string{"a\nb"}, []string{"a", "b"}, false},
		{"cut", manner{CutAfter: 5}, []string{"a\nb\nc\nd\n"}, []string{"a", "b"}, false},
		{"lost", manner{Lose: true, HangUp: immediately}, []string{"a\n"}, nil, false},
		{"reset", manner{HangUp: time.Millisecond, Reset: true}, []string{""}, nil, true},
		{"idle", manner{Idle: time.Millisecond}, []string{""}, nil, false},
		{"half-closed", manner{HalfClose: true}, []string{"a\n"}, []string{"a"}, false},
	} {
		t.Run(tt.what, func(t *testing.T) {
			r := startReceiver(t, receiverSpec{}, tt.manner)
			for i, text := range tt.writes {
				conn, err := net.Dial("tcp", r.Addr)
				if tt.reset && errors.Is(err, syscall.ECONNRESET) {
					continue // before Dial had looked
				}
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if tt.manner.CutAfter > 0 { // of connections that are open
					eventually(t, "a connection", func() error {
						if r.Connections() == 0 {
							return io.EOF
						}
						return nil
					})
					r.Behave(tt.manner)
				}
				io.WriteString(conn, text)
				if text != "" {
					conn.(*net.TCPConn).CloseWrite()
				}
				if _, err := io.Copy(io.Discard, conn); (err != nil) != tt.reset && tt.manner.CutAfter == 0 && !tt.manner.Lose {
					t.Errorf("connection %d ended with %v, want a reset: %v", i, err, tt.reset)
				}
			}
			awaitLines(t, r, tt.want)
		})
	}
}

// With TLS, what came of a record that is cut is no line.
func TestReceiverTLS(t *testing.T) {
	ca := newAuthority(t)
	r := startReceiver(t, receiverSpec{TLS: ca.issue("127.0.0.1", time.Hour).server(t, nil)}, manner{})
	roots := x509.NewCertPool()
	roots.AddCert(ca.cert)
	conn, err := tls.Dial("tcp", r.Addr, &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, "first\n")
	r.Await(t, "first")
	r.Behave(manner{CutAfter: 500})
	io.WriteString(conn, strings.Repeat("second\n", 10))
	io.WriteString(conn, strings.Repeat("third\n", 1000))
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the connection goes on")
	}
	want := append([]string{"first"}, slices.Repeat([]string{"second"}, 10)...)
	awaitLines(t, r, want)
}

func awaitLines(t *testing.T, r *receiver, want []string) {
	t.Helper()
	eventually(t, "lines", func() error {
		if got := r.Lines(); !slices.Equal(got, want) {
			return fmt.Errorf("got %q, want %q", got, want)
		}
		return nil
	})
}
