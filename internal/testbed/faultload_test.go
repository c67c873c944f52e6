//go:build linux

package testbed

import (
	"errors"
	"io"
	"net"
	"testing"
)

// What is written to a relay that has just closed is not taken for read, though
// the refusal may come later than the relay's end.
func TestFateOfAStream(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			io.ReadFull(conn, make([]byte, 1))
			conn.Close()
		}
	}()
	for range 300 {
		conn, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		l := &tallier{}
		c := &sending{load: &load{lines: l}, stream: l.open(true, false), conn: conn.(*net.TCPConn)}
		conn.Write([]byte("\n"))
		err = nil
		for range 3 {
			err = errors.Join(err, c.write(1))
		}
		if err == nil && c.finish() != broken { // else it is known to be
			t.Fatal("a connection of which lines were lost counts as whole")
		}
		conn.Close()
	}
}
