package proxy

import (
	"cmp"

	"github.com/prefixproxy/prefixproxy/internal/line"
)

// A reason says why a line was dropped. The words are a closed set: they are
// the values of the label reason of prefixproxy_lines_dropped_total. The first
// ones are package line's, by the same numbers; the rest are decided here.
type reason uint8

const (
	unterminated reason = reason(line.NumResults) + iota
	noName
	otherTenure
	tooOld
	claimLost
	queueFull
	spoolFull
	sendError
	shutdown
	truncated // of a datagram
	misframed
	seriesFull // of StatsD that becomes points
	numReasons
)

// tooLong is also for lines too long to be held until their end.
const tooLong = reason(line.TooLong)

var reasonWords = [numReasons]string{
	unterminated: "unterminated",
	noName:       "no_name",
	otherTenure:  "other_tenure",
	tooOld:       "too_old",
	claimLost:    "claim_lost",
	queueFull:    "queue_full",
	spoolFull:    "spool_full",
	sendError:    "send_error",
	shutdown:     "shutdown",
	truncated:    "truncated",
	misframed:    "framing",
	seriesFull:   "series_full",
}

func (r reason) String() string { return cmp.Or(reasonWords[r], line.Result(r).Reason()) }

// reasons calls yield with each reason that has a word.
func reasons(yield func(reason) bool) {
	for r := range numReasons {
		if r.String() != "" && !yield(r) {
			return
		}
	}
}
