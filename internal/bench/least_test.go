//go:build linux

package main

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// connected returns two connected UDP sockets.
func connected(t *testing.T) (out, in int) {
	t.Helper()
	in, err := udpSocket()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(in) })
	if out, err = udpSocket(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(out) })
	port, err := localPort(in)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(out, loopback(port)); err != nil {
		t.Fatal(err)
	}
	return out, in
}

func TestPackerFillsDatagrams(t *testing.T) {
	out, in := connected(t)
	p := &packer{fd: out, out: newPackets(2, maxDatagram)}
	const lines = 100
	input := "host.requests:1|c" // a datagram's last line lacks its end
	for range lines {
		if err := p.datagram([]byte(input)); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.flush(); err != nil {
		t.Fatal(err)
	}
	const want = "Denali.requests:1|c\n"
	var got strings.Builder
	received := newPackets(64, 64<<10)
	n, err := received.poll(in) // over loopback, what was sent is there
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		got.Write(received.received(i))
		if full := maxDatagram / len(want) * len(want); i < n-1 && len(received.received(i)) != full {
			t.Errorf("got a datagram of %d bytes, want %d", len(received.received(i)), full)
		}
	}
	if got.String() != strings.Repeat(want, lines) {
		t.Errorf("got %q", got.String())
	}
}

func TestLeastConnKeepsAnUnfinishedLine(t *testing.T) {
	c := &leastConn{block: make([]byte, leastBlock)}
	var out []byte
	for _, part := range []string{"host.cpu 1 17\nhost.c", "pu 2 17\nother.cpu 3 17\nhost", "."} {
		out = c.take(out, copy(c.block[c.tail:], part))
	}
	if want := "Denali.cpu 1 17\nDenali.cpu 2 17\nother.cpu 3 17\n"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if got := string(c.block[:c.tail]); got != "host." {
		t.Errorf("kept %q, want %q", got, "host.")
	}
}
