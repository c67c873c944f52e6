package inlet

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/address"
	"github.com/prefixproxy/prefixproxy/internal/poll"
	"github.com/prefixproxy/prefixproxy/internal/retry"
)

// The ticks of all readers fall on the same instants.
func TestPacersShareTicks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const every = 50 * time.Millisecond // too long for a nap, which no synthetic clock sees
		var g gathering
		g.coalesce.Store(int64(every))
		for offset := range 5 {
			go func() {
				p := pacer{gathering: &g, bears: MaxCoalesce}
				retry.Sleep(t.Context(), time.Duration(offset)*7*time.Millisecond)
				for range 3 {
					p.wait(t.Context(), enough)
					if off := time.Since(epoch) % every; off != 0 {
						t.Errorf("a tick is %v late", off)
					}
				}
			}()
		}
		synctest.Wait()
		retry.Sleep(t.Context(), time.Second)
	})
}

// A connection that sent much and then pauses does not keep others from napping.
func TestBusyEndsWithTheBurst(t *testing.T) {
	in := start(t, defaults, localTCP)
	write(t, in.dial(t, 0), strings.Repeat("a\n", 50_000))
	eventually(t, "all is read", func() bool { return len(in.Lines()) == 50_000 })
	eventually(t, "nobody is busy", func() bool { return in.gathering.busy.Load() == 0 })
}

// No nap is longer than what any datagram socket can bear.
func TestNapIsBoundedBySockets(t *testing.T) {
	var g gathering
	udp, gram := &Listener{Address: localUDP, ReceiveBuffer: smallBuffer}, &Listener{Address: address.Address{Network: "unixgram"}}
	for _, tt := range []struct {
		listeners []*Listener
		want      time.Duration
	}{
		{[]*Listener{udp}, 5 * time.Millisecond},
		{[]*Listener{udp, {Address: localUDP, ReceiveBuffer: 1}}, time.Millisecond},
		{[]*Listener{udp, gram}, 0}, // it queues ten
	} {
		g.set(Settings{Coalesce: 5 * time.Millisecond}, tt.listeners)
		if got := time.Duration(g.nap.Load()); got != tt.want {
			t.Errorf("a nap of %v, want %v", got, tt.want)
		}
	}
}

// Where little comes, nothing is waited for; where much does, from the first tick
// on.
func TestGatheringMustPay(t *testing.T) {
	const tick = 5 * time.Millisecond
	for _, tt := range []struct {
		name  string
		every time.Duration // between two packets
		want  bool
	}{
		{"100 a second", 10 * time.Millisecond, false},
		{"1,000 a second", time.Millisecond, true},
		{"20,000 a second", 50 * time.Microsecond, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g gathering
				g.coalesce.Store(int64(tick))
				p := pacer{gathering: &g, bears: MaxCoalesce}
				gathered, last := 0, time.Now()
				for range 100 {
					n := int(time.Since(last) / tt.every)
					last = last.Add(time.Duration(n) * tt.every)
					if p.wait(t.Context(), n) {
						gathered++
						continue
					}
					retry.Sleep(t.Context(), time.Until(last.Add(tt.every)))
				}
				if got := gathered > 50; got != tt.want {
					t.Errorf("it gathered %d times of 100", gathered)
				}
			})
		})
	}
}

// Many that bring little each are enough together; who misses a tick is looked at again, and
// who misses more is waited for.
func TestGatheringPaysTogether(t *testing.T) {
	const tick = 5 * time.Millisecond
	for _, tt := range []struct {
		name    string
		readers int
		every   time.Duration // between two packets of one
		want    bool
	}{
		{"250 a second, of four", 4, 4 * time.Millisecond, true},
		{"125 a second, of eight", 8, 8 * time.Millisecond, true},
		{"125 a second, of two", 2, 8 * time.Millisecond, false},
		{"10 a second, of a hundred", 100, 100 * time.Millisecond, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var g gathering
				g.coalesce.Store(int64(tick))
				var woken, packets atomic.Int64
				for r := range tt.readers {
					go func() {
						p := pacer{gathering: &g, bears: MaxCoalesce}
						last := epoch.Add(time.Since(epoch) + time.Duration(r)*tt.every/time.Duration(tt.readers))
						retry.Sleep(t.Context(), time.Until(last))
						for range 100 {
							n := int(time.Since(last) / tt.every)
							packets.Add(int64(n))
							if last = last.Add(time.Duration(n) * tt.every); p.wait(t.Context(), n) {
								continue
							}
							woken.Add(1)
							retry.Sleep(t.Context(), time.Until(last.Add(tt.every)))
						}
					}()
				}
				retry.Sleep(t.Context(), time.Minute)
				if got := woken.Load() < packets.Load()/10; got != tt.want {
					t.Errorf("woken %d times for %d packets", woken.Load(), packets.Load())
				}
			})
		})
	}
}

// The end waits for no tick, not even where the process naps.
func TestGatherEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gathering
		g.set(Settings{Coalesce: MaxCoalesce}, nil)
		g.nap.Store(int64(maxNap))
		poller, err := poll.New()
		if err != nil {
			t.Fatal(err)
		}
		defer poller.Close()
		ctx, end := context.WithCancel(t.Context())
		end()
		before := time.Now()
		p := pacer{gathering: &g, bears: MaxCoalesce, poller: poller}
		p.gather(ctx, MaxCoalesce)
		if took := time.Since(before); took > 0 {
			t.Errorf("it took %v", took)
		}
	})
}
