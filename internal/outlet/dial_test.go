package outlet

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// Another server than the one in use: of the same name or of another address, in the
// order of the list, and only one that takes a connection.
func TestSeekOther(t *testing.T) {
	const atC = "10.0.0.3:2003"
	net := newNet(atA, atB, atC)
	net.name("graphite", "10.0.0.1", "10.0.0.2")
	synctest.Test(t, func(t *testing.T) {
		o := New(Config{To: addresses(t, "tcp://graphite:2003", "tcp://"+atC)}, Options{Source: newSource(), Log: discard, Resolver: net})
		o.dialer = net
		than := o.dialFirst(t.Context(), 1).server
		seek := func(want string) {
			t.Helper()
			got := ""
			if c := o.seekOther(t.Context(), than); c != nil {
				got = c.server.at
			}
			if got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		}
		seek(atB)
		net.servers[atB].dialErr = errors.New("connection refused")
		seek(atC)
		net.servers[atB].dialErr = nil
		seek(atC) // the second rests
		time.Sleep(time.Minute)
		seek(atB)
		net.servers[atB].dialErr, net.servers[atC].silent = errors.New("connection refused"), true
		seek("")
		if n := len(net.servers[atA].attempts()); n != 1 {
			t.Errorf("%d attempts at the server in use", n)
		}
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		if o.seekOther(ended, than) != nil {
			t.Error("a connection though ctx has ended")
		}
	})
}
