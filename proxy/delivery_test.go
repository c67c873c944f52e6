package proxy

import (
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/conf"
	"github.com/prefixproxy/prefixproxy/internal/store"
	"github.com/prefixproxy/prefixproxy/membership"
)

// keptConfig is testConfig for lines that are kept: in dir, with a small queue.
func keptConfig(t *testing.T, carbon Upstream) (Config, Options) {
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon)
	cfg.Forward.Carbon[0].Queue = 1 << 20
	return cfg, Options{Stdout: &syncBuffer{}, Places: store.Places{State: t.TempDir(), Memory: []string{t.TempDir()}}}
}

// writeSpooling writes lines no faster than the disk takes what memory can't hold.
func writeSpooling(t *testing.T, p *running, conn io.Writer, format string, lines int) {
	t.Helper()
	const step = 10_000
	for i := 0; i < lines; i += step {
		write(t, conn, numbered(format, i, i+step))
		eventually(t, "the lines are there, and as many spooled as must be", func() bool {
			return balance(t, p.Proxy)["carbon"].Received == uint64(i+step) && p.Status().Bounds[1].Queue <= 1<<20
		})
	}
}

// What a peer may not have read is sent again on the next connection, from a
// line's start, and counts as forwarded once.
func TestReplay(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	cfg := testConfig(Upstream{Address: Address{Network: "stdout"}}, carbon.address)
	cfg.Forward.Carbon[0].Replay = 10 << 10
	p := start(t, cfg, holding("Denali"))
	conn := p.dial(t, "carbon", 0)
	const lines, size = 2000, len("Denali.n0000 1 1700000000\n")
	write(t, conn, numbered("host.n%04d 1 1700000000", 0, lines))
	carbon.next(lines)
	eventually(t, "all is acknowledged", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == lines })
	carbon.close()
	eventually(t, "the upstream is seen to be down", func() bool { return !p.Status().Upstreams[1].Up })
	carbon.open()
	write(t, conn, "host.later 1 1700000000\n")
	var again []string
	for ln := carbon.next(1)[0]; ln != "Denali.later 1 1700000000"; ln = carbon.next(1)[0] {
		again = append(again, ln)
	}
	first := lines - len(again)
	for i, ln := range again {
		if want := fmt.Sprintf("Denali.n%04d 1 1700000000", first+i); ln != want {
			t.Fatalf("line %d: got %q, want %q", i, ln, want)
		}
	}
	if n := len(again) * size; n < 10<<10 || n > 10<<10+batchSize {
		t.Errorf("%d bytes came again, want some more than %d", n, 10<<10)
	}
	eventually(t, "all is acknowledged", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 0 })
	if b := balance(t, p.Proxy)["carbon"]; b.Forwarded != lines+1 || b.Resent != uint64(len(again)) {
		t.Errorf("%d forwarded, %d resent", b.Forwarded, b.Resent)
	}
}

// What memory can't hold goes to disk, and comes from there when the upstream is
// back; but what is new comes first.
func TestSpool(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	carbon.close()
	cfg, opt := keptConfig(t, carbon.address)
	p := startWith(t, cfg, holding("Denali"), opt)
	conn := p.dial(t, "carbon", 0)
	const lines = 200_000
	writeSpooling(t, p, conn, "host.n%d 1 1700000000", lines)
	eventually(t, "half of it is spooled", func() bool {
		b := balance(t, p.Proxy)["carbon"]
		return b.Spooled >= lines/2 && b.Queued+b.Spooled == lines
	})
	carbon.open()
	seen := make([]bool, lines)
	for _, ln := range carbon.next(lines) {
		var i int
		if _, err := fmt.Sscanf(ln, "Denali.n%d 1 1700000000", &i); err != nil || seen[i] {
			t.Fatalf("got %q, %v; twice: %v", ln, err, err == nil && seen[i])
		}
		seen[i] = true
	}
	eventually(t, "the spool is empty", func() bool {
		b := balance(t, p.Proxy)["carbon"]
		return b.Spooled == 0 && b.Queued == 0 && b.Forwarded == lines
	})
}

// What waits without a name is spooled without one, and gets it when it comes.
func TestSpoolUnnamed(t *testing.T) {
	t.Parallel()
	carbon := newSink(t, "tcp")
	cfg, opt := keptConfig(t, carbon.address)
	names := noNames()
	p := startWith(t, cfg, names, opt)
	const lines = 50_000
	writeSpooling(t, p, p.dial(t, "carbon", 0), "host.n%05d 1 1700000000", lines)
	eventually(t, "a quarter of it is spooled", func() bool { return balance(t, p.Proxy)["carbon"].Spooled >= lines/4 })
	names.set(newClaim("KingPeak", time.Hour), membership.Held)
	got := carbon.next(lines)
	slices.Sort(got)
	for i, ln := range got {
		if want := fmt.Sprintf("KingPeak.n%05d 1 1700000000", i); ln != want {
			t.Fatalf("line %d: got %q, want %q", i, ln, want)
		}
	}
	eventually(t, "the books are closed", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == lines })
	carbon.none()
}

// What is left at the end is there at the next start: named or not, whether the
// disk takes it or not.
func TestStopKeeps(t *testing.T) {
	t.Parallel()
	for _, spool := range []conf.Bytes{0, 1 << 30} {
		t.Run(spool.String(), func(t *testing.T) {
			carbon := newSink(t, "tcp")
			carbon.close()
			cfg, opt := keptConfig(t, carbon.address)
			cfg.Forward.Carbon[0].Spool = spool
			names := holding("Denali")
			p := startWith(t, cfg, names, opt)
			conn := p.dial(t, "carbon", 0)
			write(t, conn, numbered("host.n%d 1 1700000000", 0, 1000))
			eventually(t, "the lines are named", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 1000 })
			names.set(nil, membership.Claiming)
			write(t, conn, numbered("host.n%d 1 1700000000", 1000, 2000))
			eventually(t, "the lines wait", func() bool { return balance(t, p.Proxy)["carbon"].Queued == 2000 })
			p.stop()
			if b := balance(t, p.Proxy)["carbon"]; b.Queued+b.Spooled != 2000 {
				t.Errorf("after the end: %+v", b)
			}
			left, _ := filepath.Glob(filepath.Join(opt.Places.Memory[0], "prefixproxy-*"))
			if is := len(left) > 0; is != (spool == 0) {
				t.Errorf("the queue is left: %v", left)
			}

			carbon.open()
			p = startWith(t, cfg, holding("MtLogan"), opt)
			got := carbon.next(2000)
			named := 0
			for _, ln := range got {
				if strings.HasPrefix(ln, "Denali.") {
					named++
				} else if !strings.HasPrefix(ln, "MtLogan.") {
					t.Fatalf("got %q", ln)
				}
			}
			if named != 1000 {
				t.Errorf("%d lines have kept their name", named)
			}
			eventually(t, "the books are closed", func() bool { return balance(t, p.Proxy)["carbon"].Forwarded == 2000 })
			if b := balance(t, p.Proxy)["carbon"]; b.Adopted != 2000 {
				t.Errorf("adopted: %+v", b)
			}
			carbon.none()
		})
	}
}

// mainAndDR returns two destinations: main, which is cfg's one, and dr, at another server.
func mainAndDR(cfg Config, other *sink) []CarbonForward {
	main := cfg.Forward.Carbon[0]
	dr := main
	main.Name, dr.Name, dr.To = "main", "dr", []Upstream{other.address}
	return []CarbonForward{main, dr}
}

// Each destination gets every line; one that is down keeps no other waiting, in the books
// of each its lines balance, and what a reload adds and removes is counted.
func TestDestinations(t *testing.T) {
	t.Parallel()
	up, down := newSink(t, "tcp"), newSink(t, "tcp")
	down.close()
	cfg, opt := keptConfig(t, up.address)
	cfg.Forward.Carbon = mainAndDR(cfg, down)
	p := startWith(t, cfg, holding("Denali"), opt)
	conn := p.dial(t, "carbon", 0)
	for i := range 100 {
		write(t, conn, numbered("host.n%d 1 1700000000", i*1000, i*1000+1000))
		up.next(1000)
		eventually(t, "the disk keeps up", func() bool { return p.Status().Bounds[2].Queue <= 1<<20 })
	}
	of := func(name string) Books {
		for _, d := range p.Status().Destinations {
			if d.Name == name {
				balanced(t, "destination "+name, d.Lines)
				return d.Lines
			}
		}
		t.Fatalf("no destination %s", name)
		return Books{}
	}
	eventually(t, "main has all", func() bool { return of("main").Forwarded == 100_000 })
	if b := of("dr"); b.Queued+b.Spooled != 100_000 || b.Forwarded != 0 {
		t.Errorf("dr: %+v", b)
	}
	down.open()
	down.next(100_000)
	eventually(t, "dr has all", func() bool { return of("dr").Forwarded == 100_000 })

	third := newSink(t, "tcp")
	added := cfg.Forward.Carbon[1]
	added.Name, added.To = "new", []Upstream{third.address}
	down.close()
	write(t, conn, "host.more 1 1700000000\n")
	up.expect("Denali.more 1 1700000000")
	cfg.Forward.Carbon = []CarbonForward{cfg.Forward.Carbon[0], added}
	reloaded(t, p, cfg)
	write(t, conn, "host.last 1 1700000000\n")
	third.expect("Denali.last 1 1700000000")
	eventually(t, "the new one has what came since", func() bool { b := of("new"); return b.Received == 1 && b.Forwarded == 1 })
	if b := of("dr"); b.Received != 100_001 || b.Dropped["shutdown"] != 1 || b.Queued != 0 {
		t.Errorf("removed: %+v", b)
	}
	if b := of("main"); b.Received != 100_002 {
		t.Errorf("main: %+v", b)
	}
}

// A destination that is gone when the process starts shows what became of its lines, and
// nothing of what comes later; it may come back.
func TestDestinationGoneAtStart(t *testing.T) {
	t.Parallel()
	up, down := newSink(t, "tcp"), newSink(t, "tcp")
	down.close()
	cfg, opt := keptConfig(t, up.address)
	both := mainAndDR(cfg, down)
	cfg.Forward.Carbon = both
	p := startWith(t, cfg, holding("Denali"), opt)
	write(t, p.dial(t, "carbon", 0), "host.a 1 1700000000\n")
	up.expect("Denali.a 1 1700000000")
	p.stop()

	cfg.Forward.Carbon = both[:1]
	p = startWith(t, cfg, holding("Denali"), opt)
	conn := p.dial(t, "carbon", 0)
	write(t, conn, "host.b 1 1700000000\n")
	up.until("Denali.b 1 1700000000")
	expect := func(received, queued uint64) {
		t.Helper()
		for _, d := range p.Status().Destinations {
			balanced(t, d.Name, d.Lines)
			if b := d.Lines; d.Name == "dr" && (b.Received != received || b.Adopted != 1 || b.Dropped["shutdown"] != 1 || b.Queued != queued) {
				t.Errorf("got %+v, want %d received and %d queued", b, received, queued)
			}
		}
	}
	expect(0, 0)
	cfg.Forward.Carbon = both
	reloaded(t, p, cfg)
	write(t, conn, "host.c 1 1700000000\n")
	up.until("Denali.c 1 1700000000")
	expect(1, 1)
}
