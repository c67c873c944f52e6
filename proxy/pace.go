package proxy

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// waits says how long readers wait. All of them share it; a reload changes it.
type waits struct {
	coalesce atomic.Int64 // from tick to tick, in ns; 0: no waiting
	nap      atomic.Int64 // the longest nap that all sockets can bear, in ns; 0: none
	timeout  atomic.Int64 // of idle, in ns
}

// set makes them those of a configuration. While one reader naps, no other is
// served, so no nap is longer than what the most delicate socket can bear.
func (w *waits) set(cfg Config, listeners []*listener) {
	nap := min(cfg.Coalesce, maxNap)
	for _, l := range listeners {
		if l.socket != nil {
			nap = min(nap, l.bears())
		}
	}
	w.coalesce.Store(int64(cfg.Coalesce))
	w.nap.Store(int64(nap))
	w.timeout.Store(int64(cfg.Listen.IdleTimeout))
}

// idle is how long a connection may bring nothing; 0: for ever.
func (w *waits) idle() time.Duration { return time.Duration(w.timeout.Load()) }

// A pacer lets input gather: a reader that found little waits for the next
// tick. Ticks are at the same instants for all readers, so that one wake-up
// serves them all: a wake-up costs ten times what a datagram costs. Each reader
// has its own pacer.
type pacer struct {
	waits  *waits
	bears  time.Duration // how long input may gather in the socket, at the most
	busy   *busy
	poller *poll.Poller // of the sockets that others wait for
	timer  *time.Timer  // nil before the first wait
}

// every is the time from tick to tick; 0: no waiting.
func (p *pacer) every() time.Duration {
	return min(time.Duration(p.waits.coalesce.Load()), p.bears)
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
	if every := p.every(); every > 0 {
		p.busy.idle(func() { p.gather(ctx, every) })
	}
}

// gather waits for the tick. Where nobody else has anything to do, it sleeps
// without telling the Go scheduler: to put the thread aside, look for other work,
// and wake the thread and the runtime's monitor again takes more than what
// arrives in a tick. Timers and the network wait that long for their turn.
func (p *pacer) gather(ctx context.Context, every time.Duration) {
	now, most := time.Now(), time.Duration(p.waits.nap.Load())
	tick := now.Add(every - now.Sub(epoch)%every)
	for most > 0 && p.busy.Load() == 0 {
		runtime.Gosched() // the upstream sends what was read, timers fire, others nap
		left := time.Until(tick)
		if left <= 0 {
			return
		}
		if p.busy.Load() > 0 || !nap(min(left, most)) {
			break
		}
		p.poller.Look()
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
