//go:build linux

package testbed

import (
	"context"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

var attackSeconds = flag.Int("attack.seconds", 4, "how long the attack suite attacks")

// All attacks at once on one daemon: well-behaved clients lose no line, the name is
// held throughout, and memory stays within its bound.
func TestAttack(t *testing.T) {
	sink, nothing := startGoodSink(t), StartStalledSink(t)
	d := StartDaemon(t, attackConfig, "ETCD="+startEtcd(t).Endpoint(), "CARBON="+sink.addr, "NOTHING="+nothing.Addr)
	read := sync.OnceFunc(nothing.Read)
	t.Cleanup(read)
	d.AwaitReady(t)
	done, end := context.WithTimeout(t.Context(), time.Duration(*attackSeconds)*time.Second)
	defer end()
	v := besiege(t, d, done)

	var good []*client
	var working sync.WaitGroup
	for name, do := range clients {
		c := &client{name: name}
		good = append(good, c)
		working.Go(func() {
			if err := do(v, c); err != nil && done.Err() == nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	peak := v.watchMemory(&working)
	wait := v.begin(seed(t))
	working.Wait()
	wait()

	for _, c := range good {
		Eventually(t, c.name, func() error {
			if lines := sink.missing(c); len(lines) > 0 {
				return fmt.Errorf("%d of %d lines are missing, like %s", len(lines), c.sent.Load(), lines[0])
			}
			return nil
		})
	}
	status := d.AwaitUp(t)
	CheckBooks(t, status)
	if text := d.Stderr.Text(); strings.Count(text, "name claimed") != 1 || strings.Contains(text, "name suspended") || status.State != "held" {
		t.Errorf("the name was not held throughout; now it is %s", status.State)
	}
	if n := len(d.Stderr.Lines()); n > 50+*attackSeconds {
		t.Errorf("%d log lines", n)
	}
	if most := peak(); most > attackMemory && !raceEnabled {
		t.Errorf("%d MiB resident, want %d at most", most>>20, attackMemory>>20)
	} else {
		t.Logf("%d MiB resident of %d; %d lines logged", most>>20, attackMemory>>20, len(d.Stderr.Lines()))
	}
	for _, a := range attacks {
		t.Logf("| %s | %s | %d |", a.name, a.what, v.tries(a.name))
	}
	for _, c := range good {
		t.Logf("%s: %d lines", c.name, c.sent.Load())
	}
	t.Logf("%+v", status.Lines)
	read()
	if code := d.Stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// watchMemory looks every 100 ms how much the daemon has resident, until the attack is
// over, and then returns the most.
func (v *besieged) watchMemory(working *sync.WaitGroup) (peak func() uint64) {
	var most uint64
	working.Go(func() {
		for v.pause(100 * time.Millisecond) {
			if now, err := residentNow(v.pid()); err == nil {
				most = max(most, now)
			}
		}
	})
	return func() uint64 { return most }
}

// residentNow returns how many bytes a process has resident.
func residentNow(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	if err != nil {
		return 0, err
	}
	var size, resident uint64
	_, err = fmt.Sscan(string(text), &size, &resident)
	return resident * uint64(os.Getpagesize()), err
}
