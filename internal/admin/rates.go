package admin

import (
	"context"
	"sync"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/proxy"
)

// Rates remember what the page shows of the last hour: some 150 KiB, whatever comes. Run's
// goroutine writes it.
type Rates struct {
	src Source

	mu      sync.Mutex
	samples [hourSamples + 1]sample // a ring
	taken   int                     // samples, so far
	state   membership.State
	since   time.Time // the state is so, within the patience of a sample
}

const (
	sampleEvery   = 10 * time.Second
	minuteSamples = 6
	hourSamples   = 360
)

// A sample is the books of both protocols at one moment.
type sample struct {
	at    time.Time
	books map[string]proxy.Books // their Dropped is nil in what is older than a minute
}

// NewRates returns rates of src that know nothing.
func NewRates(src Source) *Rates { return &Rates{src: src} }

// Run takes samples until ctx ends.
func (r *Rates) Run(ctx context.Context) {
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

// note takes note of the state.
func (r *Rates) note(now time.Time) {
	state := claimStatus(r.src.Names).State
	r.mu.Lock()
	defer r.mu.Unlock()
	if state != r.state {
		r.state, r.since = state, now
	}
}

func (r *Rates) sample(now time.Time) {
	books := r.src.Lines.Status().Lines
	r.mu.Lock()
	defer r.mu.Unlock()
	r.samples[r.taken%len(r.samples)] = sample{now, books}
	r.taken++
	if old := r.taken - minuteSamples - 2; old >= 0 {
		for protocol, b := range r.samples[old%len(r.samples)].books {
			b.Dropped = nil
			r.samples[old%len(r.samples)].books[protocol] = b
		}
	}
}

// back returns the sample that is n older than the last, or the oldest.
func (r *Rates) back(n int) (s sample, ok bool) {
	if r.taken == 0 {
		return sample{}, false
	}
	n = min(n, r.taken-1, len(r.samples)-1)
	return r.samples[(r.taken-1-n)%len(r.samples)], true
}

// A Rate is what became of the lines of a protocol in the last minute.
type Rate struct {
	Over                time.Duration // as far as there are samples
	Received, Forwarded float64       // lines a second
	Dropped             float64
	DroppedBy           map[string]uint64 // lines
	Hour                []float64         // lines received a second, minute by minute, the last one last
	HourMost            float64
}

// of returns the rate of a protocol whose books are b now.
func (r *Rates) of(protocol string, b proxy.Books, now time.Time) (rate Rate) {
	r.mu.Lock()
	defer r.mu.Unlock()
	then, ok := r.back(minuteSamples - 1)
	if ok {
		rate.Over = now.Sub(then.at)
	}
	if seconds := rate.Over.Seconds(); seconds >= 1 {
		was := then.books[protocol]
		rate.Received = float64(b.Received-was.Received) / seconds
		rate.Forwarded = float64(b.Forwarded-was.Forwarded) / seconds
		for why, n := range b.Dropped {
			if more := n - was.Dropped[why]; more > 0 && more <= n {
				if rate.DroppedBy == nil {
					rate.DroppedBy = map[string]uint64{}
				}
				rate.DroppedBy[why] = more
				rate.Dropped += float64(more) / seconds
			}
		}
	}
	for n := hourSamples - minuteSamples; n >= 0; n -= minuteSamples {
		if n+minuteSamples > r.taken-1 {
			continue
		}
		from, _ := r.back(n + minuteSamples)
		to, _ := r.back(n)
		value := 0.0
		if seconds := to.at.Sub(from.at).Seconds(); seconds > 0 {
			value = float64(to.books[protocol].Received-from.books[protocol].Received) / seconds
		}
		rate.Hour = append(rate.Hour, value)
		rate.HourMost = max(rate.HourMost, value)
	}
	return rate
}

// stateSince returns since when the state is what it is; zero: not known.
func (r *Rates) stateSince(state membership.State) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if state != r.state {
		return time.Time{}
	}
	return r.since
}
