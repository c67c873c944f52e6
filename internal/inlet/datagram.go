package inlet

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// A datagramReader reads one datagram socket. The goroutine that runs it owns the socket.
type datagramReader struct {
	*Listener
	handler Handler
	pacer   pacer
	lender  *lender

	size    int      // how much of a datagram is read, in bytes
	most    int      // datagrams at once: few while they are large
	packets *packets // borrowed for a step
	current int      // index in packets of the datagram that is being handled
}

// How much is received at a time. A UDP datagram has at most 64 KiB. One of a unix socket may be
// as long as its sender's buffer, which has this size without privileges; the socket queues ten.
const (
	udpSize     = 64 << 10
	unixSize    = 512 << 10
	fewPackets  = 16      // datagrams, where they are large
	largePacket = 4 << 10 // on average, in bytes
	keptRoom    = 1 << 20 // what they may leave filled, in bytes
)

// slots returns how many datagrams of so many bytes one system call receives.
func slots(size int) int { return min(packetBatch, packetRoom/size) }

// A lender lends buffers to the readers of datagrams, each for one read. There are as many as
// were ever in use at the same time.
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

// receive reads datagrams from l until ctx ends, and then those that have arrived by then,
// unless they are for our successor.
func (in *Inlet) receive(ctx context.Context, l *Listener) {
	d := &datagramReader{Listener: l, pacer: in.pacer(l), lender: &in.lender, size: udpSize}
	if l.Address.IsUnix() {
		d.size = unixSize
	}
	d.most = min(fewPackets, slots(d.size))
	d.handler = in.newHandler(l, d.peer)
	d.run(ctx)
}

func (d *datagramReader) run(ctx context.Context) {
	d.pacer.busy.Add(1)
	defer d.pacer.busy.Add(-1)
	defer d.Pulse.Rest()
	for ctx.Err() == nil {
		d.Pulse.Work()
		n, all, err := d.step()
		switch {
		case err != nil && !errors.Is(err, syscall.EAGAIN):
			retry.Sleep(ctx, 100*time.Millisecond) // an error that waited at the socket; it is gone now
		case all && !d.pacer.wait(ctx, n):
			d.Pulse.Rest()
			d.pacer.busy.idle(func() { d.socket.Wait(ctx, 0) })
		}
	}
	if !d.Inherited {
		d.admitNoMore()
	}
	for until := time.Now().Add(lastRead); !d.Inherited && time.Now().Before(until); {
		if _, _, err := d.step(); err != nil {
			return
		}
	}
}

// step receives datagrams, without waiting, and hands them over. It returns how many, or
// EAGAIN, and whether those were all.
func (d *datagramReader) step() (n int, all bool, err error) {
	if d.packets, err = d.lender.borrow(); err != nil {
		return 0, true, err
	}
	d.packets.divide(d.size)
	if n, err = d.packets.recv(d.socket.FD(), d.most); err != nil {
		d.lender.giveBack(d.packets)
		return 0, true, err
	}
	all = n < d.most
	bytes := 0
	d.handler.Begin(time.Now())
	for d.current = range n {
		data, lost := d.packets.packet(d.current)
		d.handler.Datagram(data, lost)
		bytes += len(data)
	}
	d.adapt(n, bytes)
	d.lender.giveBack(d.packets)
	d.handler.End() // it may let others go first
	return n, all, nil
}

// adapt receives fewer datagrams at a time where they are large: otherwise a few of them
// would keep the whole buffer filled.
func (d *datagramReader) adapt(n, bytes int) {
	switch {
	case bytes > n*largePacket:
		if bytes > keptRoom {
			d.packets.forget()
		}
		d.most = min(fewPackets, slots(d.size))
	case n == d.most:
		d.most = slots(d.size)
	}
}

// peer names the sender of the datagram that is being handled.
func (d *datagramReader) peer() string { return d.packets.peer(d.current) }
