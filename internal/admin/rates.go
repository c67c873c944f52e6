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

// A sample is what the data path had counted at one moment.
type sample struct {
	at time.Time
	proxy.Status
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
	s := sample{now, r.src.Lines.Status()}
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

// first returns the sample with which the last minute began; now's own if there is none before it.
func (r *rates) first(now sample) sample {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.minute) == 0 || now.at.Sub(r.minute[0].at) < time.Second {
		return now
	}
	return r.minute[0]
}

// rateOf returns the rate of a protocol between two samples.
func rateOf(protocol string, then, now sample) rate {
	out := rate{Protocol: protocol, Over: now.at.Sub(then.at), DroppedBy: map[string]uint64{}}
	if out.Over == 0 {
		return out
	}
	was, is, seconds := then.Lines[protocol], now.Lines[protocol], out.Over.Seconds()
	out.Received = more(is.Received, was.Received) / seconds
	out.Forwarded = more(is.Forwarded, was.Forwarded) / seconds
	for why, n := range is.Dropped {
		if lines := more(n, was.Dropped[why]); lines > 0 {
			out.DroppedBy[why] = uint64(lines)
			out.Dropped += lines / seconds
		}
	}
	return out
}

// more returns by how much a counter has grown. It may be lower now, if a reload has put another
// destination first, or has removed a listener.
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
