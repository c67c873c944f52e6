package proxy

import (
	"context"
	"net"
	"time"
)

// A datagramReader reads one datagram socket. One goroutine runs it; it owns
// the socket.
type datagramReader struct {
	conn    net.PacketConn
	raw     rawReader
	ingest  *ingest
	queue   *queue
	naming  *naming
	pacer   *pacer
	packets *recvPackets
	current int // index of the datagram that is being handled
}

func (d *datagramReader) run(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { d.conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	for !isPast(ctx) {
		n, err := d.step(d.raw.wait)
		if err != nil && !isPast(ctx) {
			pause(ctx, 100*time.Millisecond) // an error that waits at the socket; it is gone now
		} else if n < recvBatch {
			d.pacer.wait(ctx)
		}
	}
	d.finish()
}

// finish takes what has arrived already.
func (d *datagramReader) finish() {
	for until := time.Now().Add(lastRead); time.Now().Before(until); {
		if _, err := d.step(d.raw.poll); err != nil {
			return
		}
	}
}

// step receives datagrams and hands their lines over. It returns how many.
func (d *datagramReader) step(read func(func(fd int) (int, error)) (int, error)) (int, error) {
	n, err := read(d.packets.recv)
	if err != nil {
		return 0, err
	}
	d.ingest.begin(time.Now(), d.naming.current(d.queue))
	for d.current = range n {
		d.handle(d.packets.packet(d.current))
	}
	d.queue.accept(&d.ingest.tally, d.ingest.end()...)
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
