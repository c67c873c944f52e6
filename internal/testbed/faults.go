//go:build linux

package testbed

import (
	"fmt"
	"net"
	"time"
)

// faults are all faults, each of which costs no line that was received. Names
// of their parts: a receiver is refused, stalls, is slow, resets, hangs up, vanishes, is
// killed, is down; the daemon is killed or stopped; etcd is down; the disk is
// full.
var faults = []fault{
	{name: "none", inOthers: true, run: func(r *rig) { r.pause(r.outage(2 * time.Second)) }},
	{name: "receiver refused", inOthers: true, run: func(r *rig) {
		r.receiver.tell(manner{Refuse: true})
		r.pause(r.outage(3 * time.Second))
		r.recover(func() { r.receiver.tell(manner{}) })
	}},
	{name: "receiver stalls", run: func(r *rig) {
		r.receiver.tell(manner{Stall: true})
		r.burst(8 << 20) // more than two sockets hold
		r.pause(r.outage(4 * time.Second))
		r.recover(func() { r.receiver.tell(manner{}) })
	}},
	{name: "receiver slow", run: func(r *rig) {
		r.receiver.tell(manner{PerSecond: 1_000_000})
		r.burst(6 << 20)
		r.pause(r.outage(4 * time.Second))
		r.recover(func() { r.receiver.tell(manner{}) })
	}},
	{name: "receiver down, and slow when it is back", run: func(r *rig) {
		r.receiver.tell(manner{Refuse: true})
		r.burst(14 << 20)
		r.pause(2 * time.Second) // not live any more
		d := r.recover(func() { r.receiver.tell(manner{PerSecond: 4 << 20}) })
		if n := median(d.waited); n > d.backlog/5 { // what a hiccup of the machine made late is no longer live
			r.complain("half of the live lines waited for %d of the %d lines of the backlog", n, d.backlog)
		}
		r.receiver.tell(manner{})
	}},
	{name: "receiver resets in mid-line", run: func(r *rig) {
		for range 5 {
			r.receiver.tell(manner{CutAfter: 1 + r.rng.IntN(200_000), Reset: true})
			r.pause(r.between(300*time.Millisecond, time.Second))
		}
		r.receiver.tell(manner{})
	}},
	{name: "receiver hangs up at once", inOthers: true, run: hangUp(immediately, false)},
	{name: "receiver hangs up after 0.3 s", inOthers: true, run: hangUp(300*time.Millisecond, false)},
	{name: "receiver resets after 3 s", run: hangUp(3*time.Second, true)},
	{name: "receiver killed in mid-stall", run: func(r *rig) {
		r.receiver.tell(manner{Stall: true})
		r.burst(1 << 20)
		r.pause(2 * time.Second)
		r.receiver.kill()
		r.pause(time.Second)
		r.recover(r.receiver.start)
	}},
	{name: "receiver vanishes", needs: needs{faraway: true}, run: func(r *rig) {
		r.faraway.vanish()
		down := func() bool { _, up, err := r.daemon.waiting(); return err == nil && !up }
		if !r.within(patience, down) {
			r.complain("a silent peer was not found within %v", patience)
		}
		r.receiver.kill()
		r.receiver.start()
		r.recover(r.faraway.connect)
	}},
	{name: "receiver down for long", run: func(r *rig) {
		r.receiver.kill()
		r.pause(r.outage(8 * time.Second))
		r.recover(r.receiver.start)
	}},
	{name: "relay killed", run: func(r *rig) {
		r.restartThrice()
		r.pause(time.Second)
	}},
	{name: "relay killed while the receiver is down", run: func(r *rig) {
		r.receiver.kill()
		r.restartThrice()
		r.pause(time.Second)
		r.recover(r.receiver.start)
	}},
	{name: "relay killed while the receiver stalls", run: func(r *rig) {
		r.receiver.tell(manner{Stall: true})
		r.restartThrice()
		r.pause(time.Second)
		r.receiver.kill()
		r.recover(r.receiver.start)
	}},
	{name: "relay killed while the receiver pauses", run: func(r *rig) {
		r.receiver.tell(manner{Stall: true})
		r.burst(8 << 20) // more than two sockets hold: the last line that is sent is not whole
		r.restartThrice()
		r.recover(func() { r.receiver.tell(manner{}) })
	}},
	{name: "relay killed, its sockets live on", needs: needs{sockets: true}, run: func(r *rig) {
		r.restartThrice()
		r.pause(time.Second)
	}},
	{name: "relay stopped under load", needs: needs{sockets: true}, run: func(r *rig) {
		for range 3 {
			r.pause(r.between(200*time.Millisecond, 1500*time.Millisecond))
			r.daemon.stop()
			r.knock()
			r.daemon.start()
			r.daemon.current().AwaitUp(r.t)
		}
		r.pause(time.Second)
	}},
	{name: "relay stopped while the receiver is down", needs: needs{sockets: true}, run: func(r *rig) {
		r.receiver.kill()
		r.pause(r.between(500*time.Millisecond, 1500*time.Millisecond))
		r.daemon.stop()
		r.knock()
		r.daemon.start()
		r.pause(time.Second)
		r.recover(r.receiver.start)
	}},
	{name: "etcd down", needs: needs{etcd: true}, run: func(r *rig) {
		r.etcd.Close()
		r.pause(r.outage(5 * time.Second)) // the horizon is 3.3 s away
		r.restart()                        // what is held is unnamed
		r.pause(time.Second)
		if err := r.etcd.Restart(); err != nil {
			r.t.Fatal(err)
		}
		r.recover(func() {})
	}},
	{name: "disk full", needs: needs{disk: true}, run: func(r *rig) {
		r.disk.fill()
		r.receiver.kill()
		r.burst(7 << 20)         // not half of the queue
		r.pause(2 * time.Second) // no longer: all of it must stay in memory
		r.disk.clear()
		for range 4 { // in all, more than the queue holds
			if !r.within(patience, r.hasRoom) {
				r.complain("the disk is not used again within %v", patience)
			}
			r.burst(7 << 19)
		}
		r.recover(r.receiver.start)
	}},
}

// hangUp lets the receiver be a balancer whose servers are gone: it takes lines,
// loses them, and hangs up after a while.
func hangUp(after time.Duration, reset bool) func(r *rig) {
	return func(r *rig) {
		r.receiver.tell(manner{Refuse: true})
		r.receiver.tell(manner{HangUp: after, Lose: true, Reset: reset})
		r.burst(1 << 20) // more than is replayed anyway
		r.pause(r.outage(4*time.Second) + after)
		r.recover(func() { r.receiver.tell(manner{}) })
	}
}

// restartThrice restarts the relay, now and then.
func (r *rig) restartThrice() {
	for range 3 {
		r.pause(r.between(200*time.Millisecond, 1500*time.Millisecond))
		r.restart()
	}
}

// knock connects while there is no relay: what waits in the backlog of a
// listening socket that lives on is read by the next one, all of it.
func (r *rig) knock() {
	conn, err := net.Dial("tcp", r.daemon.at.carbon)
	if err != nil {
		r.complain("connect while there is no relay: %v", err)
		return
	}
	c := &sending{load: r.load, stream: r.lines.open(true, false), conn: conn.(*net.TCPConn)}
	if err := c.write(100); err != nil {
		r.complain("write while there is no relay: %v", err)
	}
	r.background.Go(func() {
		c.finish()
		conn.Close()
	})
}

// burst sends so many bytes at once.
func (r *rig) burst(size int) {
	conn, err := net.Dial("tcp", r.daemon.at.carbon)
	if err != nil {
		r.complain("connect for a burst: %v", err)
		return
	}
	defer conn.Close()
	c := &sending{load: r.load, stream: r.lines.open(true, false), conn: conn.(*net.TCPConn)}
	for c.stream.bytes < size { // nobody else writes to the stream
		if err := c.write(1000); err != nil {
			r.complain("write a burst: %v", err)
			return
		}
	}
	c.finish() // the fate stays open: nothing of it may be lost
}

// faultNamed returns a fault.
func faultNamed(name string) (fault, error) {
	for _, f := range faults {
		if f.name == name {
			return f, nil
		}
	}
	return fault{}, fmt.Errorf("no fault is called %q", name)
}
