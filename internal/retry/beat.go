package retry

import "time"

// began is when all beats did.
var began = time.Now()

// ToBeat returns how long it is until the next beat of a period. What is done every now and then
// waits for one, so that an idle process wakes up once for all of it. The renewals of a name keep
// the beat with SleepLong; so others need not.
func ToBeat(period time.Duration) time.Duration {
	return period - max(0, time.Since(began))%period // before 0: by the clock of testing/synctest
}
