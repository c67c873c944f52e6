//go:build linux

package testbed

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
)

// The kernel tells of one connection whose it is, and what of it is unread.
func TestAskOfSocket(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	file, err := server.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	client.Write([]byte("twelve bytes"))
	server.Read(make([]byte, 4))
	if got, err := askOfSocket(server.LocalAddr(), server.RemoteAddr()); err != nil || got.unread != 8 || got.read != 4 || name != fmt.Sprintf("socket:[%d]", got.inode) {
		t.Errorf("got %+v, %v; want 4 bytes read and 8 unread at %s", got, err, name)
	}
	if got, err := askOfSocket(ln.Addr(), &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1}); err == nil {
		t.Errorf("of no connection: got %+v", got)
	}
}

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
