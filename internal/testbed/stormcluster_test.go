//go:build linux

package testbed

import (
	"context"
	"fmt"
	"net"
	"os"
	"testing"
	"time"
)

// A bridge holds back one direction, passes it on later, and cuts.
func TestBridge(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	b := newBridge(t, newLoopbacks(t).at(2, 2379), ln.Addr().String(), nil)
	near, err := net.Dial("tcp", b.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()

	for _, way := range []struct {
		name     string
		held     passage
		from, to net.Conn
	}{{"there", passage{there: true}, near, far}, {"back", passage{back: true}, far, near}} {
		b.set(0, way.held)
		say(t, way.from, "held")
		say(t, way.to, "free")
		expect(t, way.from, "free")
		way.to.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		if n, err := way.to.Read(make([]byte, 1)); !os.IsTimeout(err) {
			t.Errorf("%s: %d bytes (%v) came, want none", way.name, n, err)
		}
		b.set(0, passage{})
		expect(t, way.to, "held")
	}
	b.set(0, passage{cut: true})
	near.SetReadDeadline(time.Now().Add(patience))
	if _, err := near.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
		t.Errorf("read from a connection that was cut: got %v, want its end", err)
	}
}

func say(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := conn.Write([]byte(text)); err != nil {
		t.Fatal(err)
	}
}

func expect(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	got := make([]byte, len(want))
	conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(got); err != nil || string(got) != want {
		t.Fatalf("got %q (%v), want %q", got, err, want)
	}
}

// A leader that is cut off leads no more, in whichever direction it is.
func TestClusterParts(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("waits for elections")
	}
	c := newCluster(t, newLoopbacks(t), members)
	for _, way := range []struct{ hears, says bool }{{false, false}, {true, false}, {false, true}} {
		t.Run(fmt.Sprintf("hears %v, says %v", way.hears, way.says), func(t *testing.T) {
			old := c.awaitLeader(t)
			c.part(old, way.hears, way.says)
			eventually(t, "another leader", func() error {
				now, err := c.leader(t.Context())
				if err == nil && now == old {
					err = fmt.Errorf("%d still leads", now)
				}
				return err
			})
			c.part(old, true, true)
			eventually(t, "a member that is back", func() error {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				status, err := c.client.Status(ctx, c.nodes[old].spec.Client)
				if err == nil && status.Leader == 0 {
					err = fmt.Errorf("it knows no leader")
				}
				return err
			})
		})
	}
}
