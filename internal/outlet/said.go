package outlet

import (
	"errors"
	"log/slog"
	"slices"
	"strings"
	"time"
)

const (
	// sayAgain is after what time something is logged again that has come and gone since.
	sayAgain = 10 * time.Minute

	// lasting is how long it must be so to be logged at once.
	lasting = time.Minute

	// maxCauses is how many causes of one thing are logged.
	maxCauses = 4

	// minBreaks is how often sessions that had worked must break to be logged.
	minBreaks = 3
)

// said is what has been logged about an address.
type said struct{ up, down, pauses, breaks topic }

// A topic is something about an address that is so or not, and may come and go for ever. It is
// logged at once, and then counted; and logged again when it has another cause, when it lasts, or
// after a while.
type topic struct {
	is     bool      // so
	since  time.Time // it is, or last was
	told   bool      // since then
	last   time.Time // when it was told
	causes []string  // that were told
	times  int       // how often it has become so since
}

// holds says that it is so, and warns with msg if that is to be told; if it has become so more than
// once since it last was, with how often. Where least is not 0, it must have become so that often,
// never a while after the time before.
func (t *topic) holds(now time.Time, cause string, least int, log *slog.Logger, msg string, attrs ...any) (told bool) {
	if !t.is {
		if least > 0 && now.Sub(t.since) >= sayAgain {
			t.times = 0
		}
		t.is, t.since = true, now
		t.times++
	}
	isNew := !slices.Contains(t.causes, cause) && len(t.causes) < maxCauses
	isDue := !t.told && (t.isDue(now) || now.Sub(t.since) >= lasting)
	if t.times < least || !isNew && !isDue {
		return false
	}
	if isDue {
		t.causes = nil
	}
	if t.times > 1 {
		attrs = append(attrs, "times", t.times)
	}
	t.told, t.last, t.causes, t.times = true, now, append(t.causes, cause), 0
	log.Warn(msg, attrs...)
	return true
}

// isDue says whether it has not been told for a while.
func (t *topic) isDue(now time.Time) bool { return now.Sub(t.last) >= sayAgain }

// over says that it is no longer so, and returns whether it had been told.
func (t *topic) over() (told bool) {
	told, t.told, t.is = t.told, false, false
	return told
}

// cause is the root of an error, without the digits that differ each time: ports and times.
func cause(err error) string {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		err = inner
	}
	return strings.Map(func(r rune) rune {
		if r >= '0' && r <= '9' {
			return -1
		}
		return r
	}, err.Error())
}
