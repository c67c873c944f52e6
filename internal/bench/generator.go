//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Protocols of a Traffic.
const (
	statsd = "statsd" // by UDP
	carbon = "carbon" // by TCP
)

// Traffic is what a generator sends.
type Traffic struct {
	Protocol string
	Senders  int  // sockets, one after the other
	PerWrite int  // lines in a datagram, or in a write to a connection
	Rate     int  // lines a second, of all senders together; 0: as fast as the forwarder takes them
	Stamped  bool // lines say when they were sent
	Series   int  // the lines are to be counted, in so many; 0: they are to be forwarded
}

// A generatorSpec is what a generator process is to do.
type generatorSpec struct {
	Traffic
	Run      int
	Port     int           // of 127.0.0.1
	Duration time.Duration // from the first line to the last
}

// A generatorReport is what a generator says: once when it starts to send, and
// once when it is done.
type generatorReport struct {
	Sent uint64 // lines
}

// pitch is how often a generator looks whether something is due. What is due
// by then leaves at once: a sender that sends twenty thousand datagrams a
// second sends each alone.
const pitch = 50 * time.Microsecond

// burst is how many datagrams a sender sends at once, at most: UDP_MAX_SEGMENTS
// of udp.h, and no more than 64 KiB of them.
const burst = 40

// A generator sends traffic from one thread, so that it takes one core at most
// and the forwarder is not crowded out by senders.
type generator struct {
	spec    generatorSpec
	fds     []int
	scripts []source
	block   []byte // what is sent next
	sent    uint64 // lines
}

// A source is what a sender sends.
type source interface {
	next(dst []byte) []byte // appends a line
}

// startGenerator starts a generator process, and returns when it begins to send.
func startGenerator(ctx context.Context, spec generatorSpec) (*child, error) {
	gen, err := startPart(ctx, "generator", spec)
	if err != nil {
		return nil, err
	}
	var started generatorReport
	if err := gen.hear(&started); err != nil {
		gen.stop()
		return nil, fmt.Errorf("start the generator: %w", err)
	}
	return gen, nil
}

// generate is the generator process.
func generate(spec generatorSpec, parent *channel) error {
	runtime.LockOSThread()
	// Sleep as long as asked, not 50 µs longer: prctl(2).
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0); err != nil {
		return err
	}
	g, err := newGenerator(spec)
	if err != nil {
		return err
	}
	if err := parent.tell(generatorReport{}); err != nil {
		return err
	}
	if err := g.run(); err != nil {
		return err
	}
	return parent.tell(generatorReport{Sent: g.sent})
}

// newGenerator connects the senders.
func newGenerator(spec generatorSpec) (*generator, error) {
	g := &generator{spec: spec}
	size := len(spec.source(0).next(nil)) * spec.PerWrite
	g.block = make([]byte, 0, burst*size)
	for i := range spec.Senders {
		g.scripts = append(g.scripts, spec.source(i))
		fd, err := g.connect(size)
		if err != nil {
			return nil, fmt.Errorf("connect sender %d to port %d: %w", i, spec.Port, err)
		}
		g.fds = append(g.fds, fd)
	}
	return g, nil
}

// source returns what a sender sends.
func (spec *generatorSpec) source(sender int) source {
	if spec.Series > 0 {
		return newCountScript(spec.Series, sender)
	}
	return newScript(spec.Protocol, nameIn, spec.Run, sender)
}

// connect connects a sender. What it sends by UDP in one system call, the
// kernel cuts into datagrams of a size, as udp(7) says of UDP_SEGMENT: nothing
// else is fast enough to flood a forwarder from one core.
func (g *generator) connect(size int) (fd int, err error) {
	if g.spec.Protocol == carbon {
		return dialStream(g.spec.Port)
	}
	if fd, err = udpSocket(); err != nil {
		return -1, err
	}
	return fd, errors.Join(unix.SetsockoptInt(fd, unix.SOL_UDP, unix.UDP_SEGMENT, size), unix.Connect(fd, loopback(g.spec.Port)))
}

// run sends what is due, when it is.
func (g *generator) run() error {
	start := monotonic()
	for sender := 0; ; sender = (sender + 1) % g.spec.Senders {
		after := monotonic() - start
		if due := g.dueAt(); after < due {
			sleepUntil(start + max(due, after+pitch))
			after = monotonic() - start
		}
		if after >= g.spec.Duration {
			return nil
		}
		writes, err := g.send(sender, g.due(after), start+after)
		if err != nil {
			return fmt.Errorf("send from sender %d: %w", sender, err)
		}
		g.sent += uint64(writes * g.spec.PerWrite)
	}
}

// dueAt returns when the next write is due, after the start.
func (g *generator) dueAt() time.Duration {
	if g.spec.Rate == 0 {
		return 0
	}
	return time.Duration(float64(g.sent+uint64(g.spec.PerWrite)) / float64(g.spec.Rate) * float64(time.Second))
}

// due returns how many writes are due after some time, one at least.
func (g *generator) due(after time.Duration) int {
	if g.spec.Rate == 0 {
		return burst
	}
	lines := int(after.Seconds()*float64(g.spec.Rate)) - int(g.sent)
	return max(1, lines/g.spec.PerWrite)
}

// sleepUntil sleeps until a moment of CLOCK_MONOTONIC.
func sleepUntil(t time.Duration) {
	ts := unix.NsecToTimespec(int64(t))
	unix.ClockNanosleep(unix.CLOCK_MONOTONIC, unix.TIMER_ABSTIME, &ts, nil) // a signal: early, and no harm
}

// send makes some of the writes that are due, from one sender, and returns how
// many: to a connection one, or else as many datagrams as may be.
func (g *generator) send(sender, due int, now time.Duration) (writes int, err error) {
	s := g.scripts[sender]
	if g.spec.Stamped {
		s.(*script).stamp(micros(now))
	}
	writes = 1
	if g.spec.Protocol == statsd {
		writes = min(due, burst)
	}
	g.block = g.block[:0]
	for range writes * g.spec.PerWrite {
		g.block = s.next(g.block)
	}
	return writes, writeAll(g.fds[sender], g.block)
}

// writeAll writes to a blocking socket.
func writeAll(fd int, data []byte) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err != nil && err != unix.EINTR {
			return err
		}
		data = data[max(n, 0):]
	}
	return nil
}
