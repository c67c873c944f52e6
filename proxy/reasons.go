package proxy

import "github.com/prefixproxy/prefixproxy/internal/line"

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
	noPoint    // of StatsD that becomes points
	seriesFull // likewise
	numReasons
)

// These are package line's: tooLong for lines too long to be held until their end, the
// others for StatsD that becomes points.
const (
	tooLong  = reason(line.TooLong)
	badPath  = reason(line.BadPath)
	badValue = reason(line.BadValue)
)

func (r reason) String() string {
	switch r {
	case unterminated:
		return "unterminated"
	case noName:
		return "no_name"
	case otherTenure:
		return "other_tenure"
	case tooOld:
		return "too_old"
	case claimLost:
		return "claim_lost"
	case queueFull:
		return "queue_full"
	case spoolFull:
		return "spool_full"
	case sendError:
		return "send_error"
	case shutdown:
		return "shutdown"
	case truncated:
		return "truncated"
	case misframed:
		return "framing"
	case noPoint:
		return "no_point"
	case seriesFull:
		return "series_full"
	}
	return line.Result(r).Reason()
}

// reasons calls yield with each reason that has a word.
func reasons(yield func(reason) bool) {
	for r := range numReasons {
		if r.String() != "" && !yield(r) {
			return
		}
	}
}
