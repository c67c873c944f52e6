package inlet

import (
	"context"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prefixproxy/prefixproxy/internal/poll"
)

// What was read leaves before a nap.
func TestNapLetsOthersSend(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	poller, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	defer poller.Close()
	napped, stop := napOf(t, poller)
	for range 200 { // each 61st time, the scheduler has another order
		var g gathering
		g.nap.Store(int64(maxNap))
		g.waiting.Store(2)
		ctx, send := context.WithCancel(t.Context())
		more := make(chan struct{}, 1)
		go func() {
			<-more
			runtime.Gosched() // it lets others add to what it sends
			g.busy.Add(1)
			send()
		}()
		runtime.Gosched() // it waits
		more <- struct{}{}
		p := pacer{gathering: &g, bears: MaxCoalesce, poller: poller}
		p.gather(ctx, time.Hour)
	}
	stop()
	if err := <-napped; err == nil {
		t.Error("a nap kept the upstream from sending")
	}
}

// Nobody naps while another reader only looks whether it may: that one would wait on our processor,
// and miss its tick.
func TestOneNapsAtATime(t *testing.T) {
	poller, err := poll.New()
	if err != nil {
		t.Fatal(err)
	}
	defer poller.Close()
	napped, stop := napOf(t, poller)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		if err := <-napped; err == nil {
			t.Error("it naps")
		}
		cancel()
	}()
	var g gathering
	g.nap.Store(int64(maxNap))
	g.restless.Add(1)
	p := pacer{gathering: &g, bears: MaxCoalesce, poller: poller}
	p.gather(sleepless{ctx, stop}, time.Hour)
}

// A sleepless context calls stop when somebody waits for it.
type sleepless struct {
	context.Context
	stop func()
}

func (c sleepless) Done() <-chan struct{} {
	c.stop()
	return c.Context.Done()
}

// napOf receives nil if somebody naps before stop is called: then, a socket is looked at.
func napOf(t *testing.T, poller *poll.Poller) (napped chan error, stop func()) {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(pair[1]) })
	socket, err := poller.Own(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(socket.Close)
	if _, err := unix.Write(pair[1], []byte("x")); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	napped = make(chan error, 1)
	go func() { napped <- socket.Wait(ctx, 0) }()
	return napped, stop
}
