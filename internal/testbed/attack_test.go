//go:build linux

package testbed

import (
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

var attackSeconds = flag.Int("attack.seconds", 0, "run the attack suite, for so many seconds")

// isWanted skips a test that takes all of the machine, unless it is asked for.
func isWanted(t *testing.T) {
	t.Helper()
	if *attackSeconds == 0 {
		t.Skip("takes all of the machine; run it with -attack.seconds=60")
	}
}

// All attacks at once on one daemon: well-behaved clients lose no line, the name is
// held throughout, and memory stays within its bound.
func TestAttack(t *testing.T) {
	isWanted(t)
	lines := &tallier{} // what else comes is nobody's
	sink, nothing := startServer(t, receiverSpec{}, manner{DropTail: true}, lines), startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	d := startDaemon(t, attackConfig, "ETCD="+embeddedEtcd(t), "CARBON="+sink.spec.Addr, "NOTHING="+nothing.Addr)
	read := sync.OnceFunc(func() { nothing.Behave(manner{}) })
	t.Cleanup(read)
	d.AwaitReady(t)
	done, end := context.WithTimeout(t.Context(), time.Duration(*attackSeconds)*time.Second)
	defer end()
	v := besiege(t, d, done)

	var good []*client
	var working sync.WaitGroup
	for name, do := range clients {
		c := &client{name: name, lines: lines, stream: lines.open(true, false)}
		good = append(good, c)
		working.Go(func() {
			if err := do(v, c); err != nil && done.Err() == nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wait := v.begin(seed(t), attacks...)
	working.Wait()
	wait()

	eventually(t, "the lines of all clients", func() error {
		if _, missing := lines.count(); missing > 0 {
			return fmt.Errorf("%d are missing", missing)
		}
		return nil
	})
	status := d.AwaitUp(t)
	checkBooks(t, status)
	if text := d.Stderr.Text(); strings.Count(text, "name claimed") != 1 || strings.Contains(text, "name suspended") || status.State != "held" {
		t.Errorf("the name was not held throughout; now it is %s", status.State)
	}
	if n := len(d.Stderr.Lines()); n > 50+*attackSeconds {
		t.Errorf("%d log lines", n)
	}
	checkMemory(t, d, attackMemory)
	for _, a := range attacks {
		t.Logf("| %s | %s | %d |", a.name, a.what, v.tries[a.name].Load())
	}
	for _, c := range good {
		t.Logf("%s: %d lines", c.name, c.seq)
	}
	t.Logf("%+v", status.Lines)
	read()
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// memoryConfig is a daemon with the default bounds, whose servers take nothing.
const memoryConfig = `
etcd:
  endpoints: ["${ETCD}"]
listen:
  statsd: ["udp://127.0.0.1:0", "tcp://127.0.0.1:0", "unixgram://${DIR}/statsd.gram"]
  carbon: ["tcp://127.0.0.1:0", "udp://127.0.0.1:0"]
forward:
  statsd: {to: ["tcp://${NOTHING}"]}
  carbon: {to: ["tcp://${NOTHING}"], spool: 64MiB}
`

// memoryBound is how much that daemon may have resident: 48 MiB, the queues, and the
// replay window.
const memoryBound = (48 + 16 + 64 + 4) << 20

// Full queues, 1,000 connections with a tail each, and datagrams as long as there are:
// memory stays within its bound.
func TestAttackOnMemory(t *testing.T) {
	isWanted(t)
	nothing := startReceiver(t, receiverSpec{Buffer: smallBuffer}, manner{Stall: true})
	t.Cleanup(func() { nothing.Behave(manner{}) })
	d := startDaemon(t, memoryConfig, "ETCD="+embeddedEtcd(t), "NOTHING="+nothing.Addr)
	d.AwaitName(t, "Denali")
	done, end := context.WithTimeout(t.Context(), time.Duration(*attackSeconds)*time.Second)
	defer end()
	v := besiege(t, d, done)
	wait := v.begin(seed(t), attackNamed("unterminated tails", 1000), attackNamed("huge datagrams", 2), attackNamed("floods", 1), attack{
		"Carbon flat out", "a connection that never ends", 1, func(v *besieged, _ *rand.Rand) {
			if conn := v.connect("tcp", v.carbonTCP); conn != nil {
				defer conn.Close()
				for v.done.Err() == nil {
					io.WriteString(conn, strings.Repeat("host.cpu.user 3.4 1700000000\n", 1000))
				}
			}
		},
	})
	wait()
	checkBooks(t, d.AwaitUp(t))
	checkMemory(t, d, memoryBound)
	d.Kill()
}

// attackNamed returns an attack, by so many hands.
func attackNamed(name string, hands int) attack {
	for _, a := range attacks {
		if a.name == name {
			a.hands = hands
			return a
		}
	}
	panic("no attack is called " + name)
}

// checkMemory checks that a daemon never had more resident than its bound, in bytes.
func checkMemory(t *testing.T, d *daemon, bound int) {
	t.Helper()
	most, err := peakMemory(d.cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d MiB resident of %d", most>>20, bound>>20)
	if most > bound && !raceEnabled {
		t.Errorf("%d MiB were resident, want %d at most", most>>20, bound>>20)
	}
}
