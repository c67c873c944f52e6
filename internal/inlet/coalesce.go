package inlet

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

const (
	maxNap    = 10 * time.Millisecond // for which the whole process may stand still
	enough    = 3                     // packets between ticks, for gathering to pay
	maxMisses = 2                     // ticks without input before a reader waits to be woken: who sends once in a tick may miss one
)

// epoch is the instant from which ticks are counted.
var epoch = time.Now()

// gathering says how long readers wait. They all share it; a reload changes it.
type gathering struct {
	coalesce atomic.Int64 // from tick to tick, in ns; 0: no waiting
	nap      atomic.Int64 // the longest nap that all sockets can bear, in ns; 0: none
	timeout  atomic.Int64 // of an idle connection, in ns; 0: none
	busy     busy
	waiting  atomic.Int32  // readers, for a tick
	restless atomic.Int32  // of these, those that look whether they may nap
	turns    chan struct{} // cap: of the processors
	traffic  traffic
}

// set applies the settings of a configuration. While one reader naps, no other is served, so
// no nap is longer than the most sensitive socket can stand.
func (g *gathering) set(s Settings, listeners []*Listener) {
	nap := s.Coalesce
	if nap > maxNap {
		nap = 0 // one wake-up in so long costs little
	}
	for _, l := range listeners {
		if !l.IsStream() {
			nap = min(nap, l.bears())
		}
	}
	g.coalesce.Store(int64(s.Coalesce))
	g.nap.Store(int64(nap))
	g.timeout.Store(int64(s.IdleTimeout))
}

// traffic is what all readers have found lately.
type traffic struct {
	tick  atomic.Int64
	count atomic.Int64 // packets in it
	much  atomic.Bool  // enough for gathering to pay
}

// note notes n packets in a tick. It says whether gathering pays: from the time enough come
// within one tick until none come within one.
func (t *traffic) note(n int, tick int64) (pays bool) {
	if last := t.tick.Load(); last != tick && t.tick.CompareAndSwap(last, tick) {
		if t.count.Swap(0) == 0 || tick != last+1 {
			t.much.Store(false)
		}
	}
	if t.count.Add(int64(n)) >= enough {
		t.much.Store(true)
	}
	return t.much.Load()
}

// A pacer lets input gather: a reader that found little waits for the next tick. Ticks are at
// the same instants for all readers, so that one wake-up serves them all: a wake-up costs ten
// times what a datagram costs. Where little arrives, by all sockets together, there is nothing
// to gather, and a tick would only be one more wake-up. Each reader has its own pacer.
type pacer struct {
	*gathering
	bears  time.Duration // how long input may gather in the socket, at the most
	poller *poll.Poller  // of the sockets that others wait for
	misses int           // ticks since something came
}

// pacer returns the pacer of a reader of l.
func (in *Inlet) pacer(l *Listener) pacer {
	return pacer{gathering: &in.gathering, bears: l.bears(), poller: in.poller}
}

// busy counts the readers that have something to do now.
type busy struct{ atomic.Int32 }

// idle runs f, during which the caller has nothing to do.
func (b *busy) idle(f func()) {
	b.Add(-1)
	f()
	b.Add(1)
}

// wait returns at the next tick, or when ctx ends. again says whether to look at the socket
// right away, which is not worth it where too little arrives. n is how many packets the reader
// has just found.
func (p *pacer) wait(ctx context.Context, n int) (again bool) {
	coalesce := time.Duration(p.coalesce.Load()) // once: a reload may set it to 0
	every := min(coalesce, p.bears)
	if every <= 0 {
		return n > 0
	}
	if p.misses++; n > 0 {
		p.misses = 0
	}
	if !p.traffic.note(n, int64(time.Since(epoch)/coalesce)) || p.misses > maxMisses {
		return false
	}
	p.waiting.Add(1)
	p.busy.idle(func() { p.gather(ctx, every) })
	p.waiting.Add(-1)
	return true
}

// gather waits for the tick. Where nobody else has anything to do, it sleeps without telling
// the Go scheduler: putting the thread aside, looking for other work, and waking the thread
// and the runtime's monitor again takes longer than what arrives in a tick. Timers, the
// network, and who waits for our processor have to wait that long: so no reader does.
func (p *pacer) gather(ctx context.Context, every time.Duration) {
	now, most := time.Now(), time.Duration(p.nap.Load())
	tick := now.Add(every - now.Sub(epoch)%every)
	for most > 0 && p.busy.Load() == 0 && ctx.Err() == nil {
		alone := p.giveWay()
		left := time.Until(tick)
		if left > 0 && (!alone || p.busy.Load() > 0 || !p.poller.Nap(min(left, most))) {
			break
		}
		if time.Until(tick) <= 0 {
			return
		}
	}
	retry.Sleep(ctx, time.Until(tick))
}

// giveWay lets all others have their turns before a nap: the upstream sends what was read, timers
// fire, readers look whether they may nap. It says whether there is no such reader left.
func (g *gathering) giveWay() (alone bool) {
	g.restless.Add(1)
	runtime.Gosched()
	runtime.Gosched() // each 61st time the scheduler prefers us to them
	if g.waiting.Load() > 1 {
		runtime.Gosched() // who sends has let us go first (Gathers)
	}
	return g.restless.Add(-1) == 0
}
