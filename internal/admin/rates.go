package admin

import (
	"context"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// rates remember the last minute for the page. Only run's goroutine writes them.
type rates struct {
	src Source

	mu     sync.Mutex
	minute []sample // the oldest first
	state  membership.State
	since  time.Time // when it became so, as far as run noticed
}

const (
	sampleEvery   = 10 * time.Second
	minuteSamples = 6
)

// A sample is the books of the protocols at one moment.
type sample struct {
	at    time.Time
	books map[string]proxy.Books
}

// run takes samples until ctx ends.
func (r *rates) run(ctx context.Context) {
	tick := time.NewTimer(retry.ToBeat(sampleEvery))
	r.sample(time.Now())
	for {
		changed := r.src.Names.Changed()
		r.note(time.Now())
		select {
		case <-tick.C:
			tick.Reset(retry.ToBeat(sampleEvery))
			r.sample(time.Now())
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// note notes the state.
func (r *rates) note(now time.Time) {
	state := claimStatus(r.src.Names).State
	r.mu.Lock()
	defer r.mu.Unlock()
	if state != r.state {
		r.state, r.since = state, now
	}
}

func (r *rates) sample(now time.Time) {
	s := sample{now, r.src.Lines.Status().Lines}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.minute = append(r.minute, s)
	r.minute = r.minute[max(0, len(r.minute)-minuteSamples):]
}

// A rate is what became of the lines of a protocol in the last minute.
type rate struct {
	Protocol            string
	Over                time.Duration // what the samples cover
	Received, Forwarded float64       // lines a second
	Dropped             float64
	DroppedBy           map[string]uint64 // lines
}

// of returns the rate of a protocol whose books are b now.
func (r *rates) of(protocol string, b proxy.Books, now time.Time) rate {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := rate{Protocol: protocol, DroppedBy: map[string]uint64{}}
	if len(r.minute) == 0 || now.Sub(r.minute[0].at) < time.Second {
		return out
	}
	out.Over = now.Sub(r.minute[0].at)
	was, seconds := r.minute[0].books[protocol], out.Over.Seconds()
	out.Received = more(b.Received, was.Received) / seconds
	out.Forwarded = more(b.Forwarded, was.Forwarded) / seconds
	for why, n := range b.Dropped {
		if lines := more(n, was.Dropped[why]); lines > 0 {
			out.DroppedBy[why] = uint64(lines)
			out.Dropped += lines / seconds
		}
	}
	return out
}

// more returns by how much a counter has grown. It may be lower now, if a reload has put another
// destination first.
func more(now, then uint64) float64 { return float64(now - min(then, now)) }

// stateSince returns when the state became what it is; zero if that is not known.
func (r *rates) stateSince(state membership.State) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state != r.state {
		return time.Time{}
	}
	return r.since
}
