package aggregate

import (
	"slices"
	"time"
)

// A Slot is the time for which a point stands.
type Slot struct {
	Seq      int32  // counts slots
	Start    int64  // Unix seconds: the timestamp of its points
	Interval int64  // seconds
	Tenure   string // what the name is held under when it begins; "": none is
	Lines    int    // that were counted

	// How its points are named, even if the configuration has changed since: after a kill,
	// points that have left are made again.
	Layout Layout
	To     string
}

func (s Slot) end() int64 { return s.Start + s.Interval }

// A Span is time in which no more slots may begin: from its start up to its end.
type Span struct{ From, To int64 }

// maxClosed is how many spans are remembered: there is one, and one more each time the clock
// is set forward.
const maxClosed = 16

// slots knows which slot is open, and which may be.
type slots struct {
	cfg      Config
	interval int64 // of cfg, in seconds
	open     Slot
	named    bool // the host holds a name
	closed   []Span
}

func (s *slots) configure(cfg Config) { s.cfg, s.interval = cfg, int64(cfg.Interval/time.Second) }

// next returns the start of the first slot that is not over at now and may be used: it shares no
// time with a closed one.
func (s *slots) next(now int64) int64 {
	start := now - ((now%s.interval)+s.interval)%s.interval
	for again := true; again; {
		again = false
		for _, c := range s.closed {
			if c.From < start+s.interval && start < c.To {
				start = (c.To + s.interval - 1) / s.interval * s.interval
				again = true
			}
		}
	}
	return start
}

// begin opens another slot: the first that may be used at now.
func (s *slots) begin(now int64) {
	s.open = Slot{Seq: s.open.Seq + 1, Tenure: s.open.Tenure}
	if !s.named {
		s.open.Tenure = ""
	}
	s.move(now)
}

// move makes the open slot the first one that may be used at now.
func (s *slots) move(now int64) {
	s.open.Start, s.open.Interval = s.next(now), s.interval
	s.label()
}

// label has the points of the open slot, none of which has left, named as is configured now.
func (s *slots) label() { s.open.Layout, s.open.To = s.cfg.Layout, s.cfg.To }

// closeUpTo keeps the time of the open slot, up to to, from being used again.
func (s *slots) closeUpTo(to int64) {
	from := s.open.Start
	to = max(to, s.open.end())
	for i := range s.closed {
		if c := &s.closed[i]; c.From <= from && from <= c.To {
			c.To = max(c.To, to)
			return
		}
	}
	s.closed = append(s.closed, Span{from, to})
	if len(s.closed) > maxClosed {
		s.closed = slices.Delete(s.closed, 0, 1)
	}
}

// IsOver says whether the open slot has ended at now, or the clock is set back before it. Without a
// name it waits a little longer, in case one comes: see Hold.
func (s *slots) IsOver(now time.Time) bool {
	return s.next(now.Unix()) < s.open.Start || !now.Before(s.Ends())
}

// Ends returns when IsOver becomes true, unless the clock is set.
func (s *slots) Ends() time.Time {
	end := time.Unix(s.open.end(), 0)
	if !s.named {
		end = end.Add(time.Duration(s.open.Interval/3) * time.Second)
	}
	return end
}

// HasBegun says whether the open slot has begun at now. It hasn't if the present already had
// its slot: in the first seconds of a tenure, or if the clock was set back.
func (s *slots) HasBegun(now time.Time) bool { return s.open.Start <= now.Unix() }
