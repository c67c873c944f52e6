package proxy

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// A datagramReader reads one datagram socket. One goroutine runs it; it owns
// the socket.
type datagramReader struct {
	socket *poll.Socket
	ingest *ingest
	queue  queue
	naming *naming
	pacer  pacer
	lender *lender
	leaves bool // what has arrived in the end is for our successor

	packets *recvPackets // borrowed for a step
	current int          // index in packets of the datagram that is being handled
}

// A lender lends buffers to the readers of datagrams, each for one read: there
// are as many as have been in use at one moment.
type lender struct {
	mu   sync.Mutex
	free []*recvPackets
}

func (l *lender) borrow() (*recvPackets, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	last := len(l.free) - 1
	if last < 0 {
		return newRecvPackets()
	}
	p := l.free[last]
	l.free = l.free[:last]
	return p, nil
}

func (l *lender) giveBack(p *recvPackets) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.free = append(l.free, p)
}

// run reads until ctx ends, and then what has arrived by then, unless that is for
// our successor.
func (d *datagramReader) run(ctx context.Context) {
	d.pacer.busy.Add(1)
	defer d.pacer.busy.Add(-1)
	for !isPast(ctx) {
		n, err := d.step()
		switch {
		case errors.Is(err, syscall.EAGAIN):
			d.pacer.busy.idle(func() { d.socket.Wait(ctx, 0) })
		case err != nil:
			pause(ctx, 100*time.Millisecond) // an error that waited at the socket; it is gone now
		case n < recvBatch:
			d.pacer.wait(ctx)
		}
	}
	for until := time.Now().Add(lastRead); !d.leaves && time.Now().Before(until); {
		if _, err := d.step(); err != nil {
			return
		}
	}
}

// step receives datagrams, without waiting, and hands their lines over. It
// returns how many, or EAGAIN.
func (d *datagramReader) step() (n int, err error) {
	if d.packets, err = d.lender.borrow(); err != nil {
		return 0, err
	}
	n, err = d.receive()
	d.lender.giveBack(d.packets)
	if err != nil {
		return 0, err
	}
	d.queue.accept(&d.ingest.tally, d.ingest.end()...)
	return n, nil
}

// receive receives datagrams into batches.
func (d *datagramReader) receive() (int, error) {
	n, err := d.packets.recv(d.socket.FD())
	if err != nil {
		return 0, err
	}
	d.ingest.begin(time.Now(), d.naming.current(d.queue))
	for d.current = range n {
		d.handle(d.packets.packet(d.current))
	}
	return n, nil
}

// peer names the sender of the datagram that is being handled.
func (d *datagramReader) peer() string { return d.packets.peer(d.current) }

// handle takes the lines of one datagram. Where its end was cut off, the last
// line is not whole.
func (d *datagramReader) handle(data []byte, truncated bool) {
	if !truncated {
		d.ingest.datagram(data)
		return
	}
	if rest := d.ingest.stream(data); len(rest) > 0 {
		d.ingest.drop(tooLong, rest)
	}
}
