package proxy

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

// A pacer lets input gather: a reader that found little waits for the next
// tick. Ticks are at the same instants for all readers, so that one wake-up
// serves them all: a wake-up costs ten times what a datagram costs. Each reader
// has its own pacer.
type pacer struct {
	every  time.Duration // from tick to tick; 0: no waiting
	nap    time.Duration // the longest nap that all sockets can bear; 0: none
	busy   *busy
	poller *poller     // of the sockets that others wait for
	timer  *time.Timer // nil before the first wait
}

// busy counts the readers and upstreams that have something to do now.
type busy struct{ atomic.Int32 }

// idle runs f, in which the caller has nothing to do.
func (b *busy) idle(f func()) {
	b.Add(-1)
	f()
	b.Add(1)
}

// maxNap is how long the whole process may stand still, at the most.
const maxNap = 10 * time.Millisecond

// epoch is the instant that ticks are counted from.
var epoch = time.Now()

// wait returns at the next tick, or when ctx ends.
func (p *pacer) wait(ctx context.Context) {
	if p.every > 0 {
		p.busy.idle(func() { p.gather(ctx) })
	}
}

// gather waits for the tick. Where nobody else has anything to do, it sleeps
// without telling the Go scheduler: to put the thread aside, look for other work,
// and wake the thread and the runtime's monitor again takes more than what
// arrives in a tick. Timers and the network wait that long for their turn.
func (p *pacer) gather(ctx context.Context) {
	now := time.Now()
	tick := now.Add(p.every - now.Sub(epoch)%p.every)
	for p.nap > 0 && p.busy.Load() == 0 {
		runtime.Gosched() // the upstream sends what was read, timers fire, others nap
		left := time.Until(tick)
		if left <= 0 {
			return
		}
		if p.busy.Load() > 0 || !nap(min(left, p.nap)) {
			break
		}
		p.poller.look()
	}
	p.sleep(ctx, time.Until(tick))
}

func (p *pacer) sleep(ctx context.Context, d time.Duration) {
	if p.timer == nil {
		p.timer = time.NewTimer(d)
	} else {
		p.timer.Reset(d)
	}
	select {
	case <-p.timer.C:
	case <-ctx.Done():
	}
}
