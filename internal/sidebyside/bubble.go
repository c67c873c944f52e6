package sidebyside

import (
	"testing/synctest"
	"time"
)

// Pass lets d pass in a bubble of testing/synctest, and all that is due then happen. It panics
// outside of one, where nothing may wait for time to pass.
func Pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// After is time.AfterFunc where nobody needs the timer. Under the race detector, Go 1.26 crashes when
// two goroutines of a bubble set, at one moment, timers that are due at once: it runs both in the only
// state that the detector has for the bubble's timers.
func After(d time.Duration, f func()) {
	if d <= 0 {
		go f()
		return
	}
	time.AfterFunc(d, f)
}
