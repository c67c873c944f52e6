//go:build linux

package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// The names under which lines go in and come out. The daemon of a benchmark is
// the first of its pool.
const (
	nameIn  = "host"
	nameOut = "Denali"
)

// telemetry is how the daemon's own lines begin; they are not ours to check.
const telemetry = nameOut + ".prefixproxy."

// maxSenders and maxRuns are how many senders, and how many runs, the two digits
// of a line can tell apart.
const (
	maxSenders = 100
	maxRuns    = 100
)

// A script knows all lines of one sender in one run, one after the other: the
// generator writes them, the sink expects them. A line is
//
//	host.r07.s03.t0000001234567890:000000000042|c              StatsD
//	host.r07.s03.t0000001234567890 000000000042 4000000000     Carbon
//	      │    │  │                └ sequence, from 1
//	      │    │  └ when it was sent, in µs of CLOCK_MONOTONIC; 0: not stamped
//	      │    └ sender
//	      └ run
type script struct {
	line             []byte // the next one, with its end
	runAt, senderAt  int    // offsets in line
	stampAt          int
	stampEnd, seqEnd int
}

func newScript(protocol, name string, run, sender int) *script {
	between, after := ":", "|c\n"
	if protocol == carbon {
		between, after = " ", " 4000000000\n" // as a line of now: what is older than the claim is looked up
	}
	s := &script{line: fmt.Appendf(nil, "%s.r%02d.s%02d.t%016d%s%012d%s", name, run, sender, 0, between, 1, after)}
	s.runAt = len(name) + len(".r")
	s.senderAt = s.runAt + len("00.s")
	s.stampAt = s.senderAt + len("00.t")
	s.stampEnd = s.stampAt + 16
	s.seqEnd = s.stampEnd + 1 + 12
	return s
}

// next appends the next line to dst, and returns it.
func (s *script) next(dst []byte) []byte {
	dst = append(dst, s.line...)
	s.skip(1)
	return dst
}

// skip passes over n lines.
func (s *script) skip(n uint64) { advance(s.line[s.stampEnd+1:s.seqEnd], n) }

// stamp sets when the lines from here on are sent.
func (s *script) stamp(micros uint64) {
	for i := s.stampEnd - 1; i >= s.stampAt; i-- {
		s.line[i] = byte('0' + micros%10)
		micros /= 10
	}
}

// advance adds n to the decimal number in digits.
func advance(digits []byte, n uint64) {
	for i := len(digits) - 1; n > 0 && i >= 0; i-- {
		n += uint64(digits[i] - '0')
		digits[i] = byte('0' + n%10)
		n /= 10
	}
}

// number reads the decimal number in digits.
func number(digits []byte) (n uint64, ok bool) {
	for _, c := range digits {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = 10*n + uint64(c-'0')
	}
	return n, true
}

// monotonic reads the clock that all processes of this machine share.
func monotonic() time.Duration {
	var ts unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) // cannot fail
	return time.Duration(ts.Nano())
}

func micros(d time.Duration) uint64 { return uint64(d / time.Microsecond) }
