package proxy

import (
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// The flush of many series goes in parts, which are spread over a sixth of the interval:
// readers never wait for more than one. None takes 10 ms, of which they wait for some;
// all series at once took 58.
func TestManyPointsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		const series = 100_000
		c := count(t, holding("Denali"))
		if err := c.points.open(c.proxy.cfg, aggregateDirs(t.TempDir(), "")); err != nil {
			t.Fatal(err)
		}
		c.flush()
		c.after(12)
		for i := range series {
			c.take(fmt.Sprintf("host.x%d:1|c", i))
		}
		c.after(20)
		begun, parts, left, longest := time.Now(), 0, 0, time.Duration(0)
		for left < series {
			used := cpuTime(t)
			wait, _ := c.points.step(time.Now())
			longest = max(longest, cpuTime(t)-used)
			if n := len(c.leaving()); n > flushStep {
				t.Fatalf("%d series left at once", n)
			} else if n > 0 {
				left, parts = left+n, parts+1
			}
			sidebyside.Pass(wait)
		}
		took := time.Since(begun)
		if took < 3*time.Second/2 || took > 2*time.Second || parts < series/flushStep {
			t.Errorf("%d series left in %d parts, in %v", left, parts, took)
		}
		if t.Logf("a part takes %v at most", longest); longest > 10*time.Millisecond && !raceDetector {
			t.Errorf("a part takes %v", longest)
		}
	})
}

// cpuTime returns what this goroutine's thread has used of the processor: what others do
// beside it is not in there.
func cpuTime(t *testing.T) time.Duration {
	var used unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Nano())
}
