package inlet

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"
)

// A datagramReader reads one datagram socket. One goroutine runs it; it owns
// the socket.
type datagramReader struct {
	*Listener
	handler Handler
	pacer   pacer
	lender  *lender

	packets *packets // borrowed for a step
	current int      // index in packets of the datagram that is being handled
}

// A lender lends buffers to the readers of datagrams, each for one read: there
// are as many as have been in use at one moment.
type lender struct {
	mu   sync.Mutex
	free []*packets
}

func (l *lender) borrow() (*packets, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.free) - 1
	if last < 0 {
		return newPackets()
	}
	p := l.free[last]
	l.free = l.free[:last]
	return p, nil
}

func (l *lender) giveBack(p *packets) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, p)
}

// receive reads datagrams from l until ctx ends, and then what has arrived by then,
// unless that is for our successor.
func (in *Inlet) receive(ctx context.Context, l *Listener) {
	defer l.close()
	d := &datagramReader{Listener: l, pacer: in.pacer(l), lender: &in.lender}
	d.handler = in.newHandler(l, d.peer)
	d.run(ctx)
}

func (d *datagramReader) run(ctx context.Context) {
	d.pacer.busy.Add(1)
	defer d.pacer.busy.Add(-1)
	for ctx.Err() == nil {
		n, err := d.step()
		switch {
		case err != nil && !errors.Is(err, syscall.EAGAIN):
			pause(ctx, 100*time.Millisecond) // an error that waited at the socket; it is gone now
		case n < packetBatch && (n == 0 || !d.pacer.wait(ctx, n)):
			d.pacer.busy.idle(func() { d.socket.Wait(ctx, 0) })
		}
	}
	for until := time.Now().Add(lastRead); !d.Inherited && time.Now().Before(until); {
		if _, err := d.step(); err != nil {
			return
		}
	}
}

// step receives datagrams, without waiting, and hands them over. It returns how
// many, or EAGAIN.
func (d *datagramReader) step() (n int, err error) {
	if d.packets, err = d.lender.borrow(); err != nil {
		return 0, err
	}
	defer d.lender.giveBack(d.packets)
	if n, err = d.packets.recv(d.socket.FD()); err != nil {
		return 0, err
	}
	d.handler.Begin(time.Now())
	for d.current = range n {
		d.handler.Datagram(d.packets.packet(d.current))
	}
	d.handler.End()
	return n, nil
}

// peer names the sender of the datagram that is being handled.
func (d *datagramReader) peer() string { return d.packets.peer(d.current) }
