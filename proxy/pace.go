package proxy

import (
	"context"
	"sync"
	"time"
)

// A pacer lets input gather: readers that found little wait for its next tick,
// and all of them share one. A wake-up costs ten times what a datagram costs,
// and a sleep of its own for each connection would keep the wake-ups.
type pacer struct {
	every time.Duration // at most so long from wait to tick; 0: no waiting

	mu   sync.Mutex
	tick chan struct{} // closed at the next tick; nil while nobody waits
}

// wait returns at the next tick, or when ctx ends.
func (p *pacer) wait(ctx context.Context) {
	if p.every <= 0 {
		return
	}
	select {
	case <-p.next():
	case <-ctx.Done():
	}
}

func (p *pacer) next() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.tick == nil {
		p.tick = make(chan struct{})
		time.AfterFunc(p.every, p.fire)
	}
	return p.tick
}

func (p *pacer) fire() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.tick)
	p.tick = nil
}
