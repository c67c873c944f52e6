package proxy

import (
	"context"
	"time"
)

// A pacer lets input gather: a reader that found little waits for the next
// tick. Ticks are at the same instants for all readers, so that one wake-up
// serves them all: a wake-up costs ten times what a datagram costs. Each reader
// has its own pacer.
type pacer struct {
	every time.Duration // from tick to tick; 0: no waiting
	timer *time.Timer   // nil before the first wait
}

// epoch is the instant that ticks are counted from.
var epoch = time.Now()

// wait returns at the next tick, or when ctx ends.
func (p *pacer) wait(ctx context.Context) {
	if p.every <= 0 {
		return
	}
	left := p.every - time.Since(epoch)%p.every
	if p.timer == nil {
		p.timer = time.NewTimer(left)
	} else {
		p.timer.Reset(left)
	}
	select {
	case <-p.timer.C:
	case <-ctx.Done():
	}
}
