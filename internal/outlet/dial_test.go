package outlet

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/link"
)

// What is wrong with a server that is not what its address says is told in words.
func TestWrongServer(t *testing.T) {
	t.Parallel()
	says := func(text string) func(net.Conn) {
		return func(c net.Conn) {
			c.Read(make([]byte, 1000))
			io.WriteString(c, text)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
		}
	}
	const patience = 30 * time.Second
	for _, c := range []struct {
		network string
		server  func(net.Conn)
		limit   time.Duration
		want    string
	}{
		{"tls", func(c net.Conn) { io.Copy(io.Discard, c) }, time.Second, "the handshake was not answered within"},
		{"tls", says(""), patience, "closed by the server in the handshake (a server without TLS"},
		{"tls", says("HTTP/1.1 400 Bad Request\r\n"), patience, "the answer is not TLS (a server without TLS"},
		{"tcp", says("HTTP/1.1 400 Bad Request\r\n"), patience, `it said "HTTP/1.1 400 Bad Request\r\n"`},
		{"tcp", says("\x15\x03\x01\x00\x02\x02\x46"), patience, "is tls:// meant?"},
		{"tcp", says(""), patience, "closed by the server"},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			if conn, err := listener.Accept(); err == nil {
				defer conn.Close()
				c.server(conn)
			}
		}()
		o := New(Config{To: addresses(t, fmt.Sprintf("%s://%s", c.network, listener.Addr()))}, Options{Source: newSource(), Log: discard, Dialer: link.Dialer{}})
		ctx, cancel := context.WithTimeout(t.Context(), c.limit)
		server := o.failover.resolved(time.Now(), o.failover.entries[0], []string{listener.Addr().String()})[0]
		conn, err := o.dialServer(ctx, o.config.Load(), server, time.Minute)
		if err == nil {
			conn.link.Write([]byte("host.cpu 1 1700000000\n"), time.Minute)
			err = <-conn.heard
			conn.close()
			err = conn.explain(err)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.network, err, c.want)
		}
		cancel()
		listener.Close()
	}
}
