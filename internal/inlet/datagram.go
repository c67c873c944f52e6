package inlet

import (
	"context"
	"errors"
	"sync"
	"syscall"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// A datagramReader reads one datagram socket. The goroutine that runs it owns the socket.
type datagramReader struct {
	*Listener
	handler Handler
	pacer   pacer

	size    int           // how much of a datagram is read, in bytes
	most    int           // datagrams at once: few while they are large
	packets *poll.Packets // borrowed for a step
	current int           // index in packets of the datagram that is being handled
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

// rooms are lent to the readers of datagrams, each for one read.
var rooms = sync.Pool{New: func() any { return new(poll.Packets) }}

// receive reads datagrams from l until ctx ends, and then those that have arrived by then,
// unless they are for our successor.
func (in *Inlet) receive(ctx context.Context, l *Listener) {
	d := &datagramReader{Listener: l, pacer: in.pacer(l), size: udpSize}
	if l.Address.IsUnix() {
		d.size = unixSize
	}
	d.most = min(fewPackets, poll.Slots(d.size))
	d.handler = in.newHandler(l.Protocol, func() string { return d.packets.Peer(d.current) })
	d.pacer.busy.Add(1)
	defer d.pacer.busy.Add(-1)
	defer d.pulse.Rest()
	for ctx.Err() == nil {
		d.pulse.Work()
		asked := d.most
		n, err := d.step()
		switch {
		case err != nil && !errors.Is(err, syscall.EAGAIN):
			retry.Sleep(ctx, 100*time.Millisecond) // an error that waited at the socket; it is gone now
		case n < asked && !d.pacer.wait(ctx, n):
			d.pulse.Rest()
			d.pacer.busy.idle(func() { d.socket.Wait(ctx, 0) })
		}
	}
	if !d.Inherited {
		d.admitNoMore()
		drain(mostPackets, d.step)
	}
}

// step receives datagrams, without waiting, and hands them over. It returns how many, or EAGAIN.
func (d *datagramReader) step() (n int, err error) {
	p := rooms.Get().(*poll.Packets)
	if n, err = p.Recv(d.socket, d.size, d.most); err != nil {
		rooms.Put(p)
		return 0, err
	}
	d.packets = p
	read, ended := 0, 0 // bytes; of them, those of reads that are over
	d.handler.Begin(time.Now())
	for d.current = range n {
		data, lost := p.Packet(d.current)
		if read-ended > keptRoom { // it need not hold all of what are large
			d.handler.End()
			d.handler.Begin(time.Now())
			ended = read
		}
		d.handler.Datagram(data, lost)
		read += len(data)
	}
	if d.most = poll.Slots(d.size); read > n*largePacket { // many of them would fill the whole buffer
		d.most = min(d.most, fewPackets)
	}
	if read > keptRoom {
		p.Forget()
	}
	d.packets = nil
	rooms.Put(p)
	d.handler.End() // it may let others go first
	return n, nil
}
