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
