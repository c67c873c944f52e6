package retry

import "time"

// began is when all beats did.
var began = time.Now()

// ToBeat returns how long it is until the next beat of a period. What is done every now and then
// waits for one, so that an idle process wakes up once for all of it: each time costs the
// runtime's monitor up to 20 short naps more.
func ToBeat(period time.Duration) time.Duration {
	return period - max(0, time.Since(began))%period // before it began: in testing/synctest
}
