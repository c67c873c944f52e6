package store

import (
	"bytes"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/outlet"
	"github.com/prefixproxy/prefixproxy/internal/records"
)

var powerFailures = flag.Int("store.powerfailures", 8, "how many schedules TestPowerFails runs")

// A platter is what a disk has of a directory when the power fails: what was synced for certain,
// and of the rest anything.
type platter struct {
	dir    string
	kept   bool              // its own name, in the directory above
	names  map[string]uint64 // in the directory, when that was synced
	synced map[uint64][]byte // contents, by inode
	gone   map[uint64][]byte // contents of files that were removed
}

func inode(path string) uint64 {
	info, err := os.Lstat(path)
	if err != nil {
		return 0
	}
	return info.Sys().(*syscall.Stat_t).Ino
}

func (p *platter) list() map[string]uint64 {
	all := map[string]uint64{}
	entries, _ := os.ReadDir(p.dir)
	for _, e := range entries {
		all[e.Name()] = inode(filepath.Join(p.dir, e.Name()))
	}
	return all
}

// fault stands before every change of a file.
func (p *platter) fault(op, path string, size int) (int, error) {
	switch {
	case op == "sync" && path == filepath.Dir(p.dir):
		p.kept = true
	case !strings.HasPrefix(path, p.dir):
	case op == "sync" && path == p.dir:
		p.names = p.list()
	case op == "sync":
		p.synced[inode(path)], _ = os.ReadFile(path)
	case op == "remove" || op == "rename":
		if b, err := os.ReadFile(path); err == nil {
			p.gone[inode(path)] = b
		}
	}
	return size, nil
}

// fail makes the directory what is found after a power failure.
func (p *platter) fail(r *rand.Rand) {
	if !p.kept {
		os.RemoveAll(p.dir)
		return
	}
	now := p.list()
	files := map[uint64][]byte{}
	for name, i := range now {
		files[i], _ = os.ReadFile(filepath.Join(p.dir, name))
	}
	for name, i := range p.names {
		if _, ok := now[name]; !ok {
			now[name] = 0
		}
		if _, ok := files[i]; !ok {
			files[i] = p.gone[i]
		}
	}
	for name, i := range now {
		os.Remove(filepath.Join(p.dir, name))
		if r.IntN(2) == 0 {
			i = p.names[name]
		}
		if i == 0 {
			continue
		}
		b := slices.Clone(files[i])
		old, isSynced := p.synced[i]
		switch n := r.IntN(len(b) + 1); {
		case isSynced && r.IntN(2) == 0: // what came later did not get there
			b = old
		case isSynced && len(old) <= len(b): // or the beginning of it
			copy(b[min(n, len(old)):], old[min(n, len(old)):])
		case isSynced:
			b = append(b[:n], old[n:]...)
		case r.IntN(2) == 0:
			b = b[:n]
		case r.IntN(2) == 0:
			clear(b[n:])
		}
		if err := os.WriteFile(filepath.Join(p.dir, name), b, 0o600); err != nil {
			panic(err)
		}
	}
}

// Whatever a power failure leaves of what was not synced, all that was synced and waits is found, no
// line is wrong, and nothing that was delivered before is said to be lost.
func TestPowerFails(t *testing.T) {
	for seed := range uint64(*powerFailures) {
		r := rand.New(rand.NewPCG(seed, *firstSeed))
		b := newBench(t, Destination{Name: "a", Queue: 1 << 20, Spool: 1 << 30}, Destination{Name: "b", Queue: 1 << 20, Spool: 1 << 30})
		p := &platter{dir: b.places.State + "/store", names: map[string]uint64{}, synced: map[uint64][]byte{}, gone: map[uint64][]byte{}}
		b.fault = p.fault
		b.abandon()
		os.RemoveAll(p.dir)
		b.open()
		var synced [2]records.Spans // what was to do on disk, when it was synced
		var todo [2]int
		var tails [2]uint64
		sync := func() {
			var was [2]records.Spans
			for i, c := range b.cursors {
				for _, g := range b.named.segments {
					if g.dir == b.disk { // and not a file in memory that was found again
						was[i] = append(was[i], slices.Collect(c.todo.Within(g.span()))...)
					}
				}
				todo[i] = c.todo.Lines() + c.lost.Lines() + b.Held.todo.Lines()
				tails = [2]uint64{b.named.tail.Line, b.held.tail.Line}
			}
			if b.spooler.sync() == nil {
				synced = was
			}
		}
		links := [2]*link{}
		for n := 20 + r.IntN(200); n > 0; n-- {
			i := r.IntN(2)
			b.pass(time.Duration(r.IntN(300)) * time.Millisecond)
			switch r.IntN(13) {
			case 0, 1, 2, 3:
				k := 1 + r.IntN(3000)
				b.Put(many("x", k), k, b.now)
			case 4:
				k := 1 + r.IntN(1000)
				b.PutHeld(many("x", k), k, b.now)
			case 5:
				for h, ok := b.Held.Take(); ok; h, ok = b.Held.Take() {
					b.Held.Finish(func(put func([]byte, int, time.Time)) { put(bytes.Clone(h.Data), h.Lines(), h.Born) })
				}
			case 6, 7:
				b.spooler.turn(b.now)
			case 8:
				sync()
			case 9, 10:
				if links[i] == nil {
					links[i] = b.begin(b.to[i].Name)
				}
				for range r.IntN(20) {
					lines, _, _ := links[i].Next(b.now)
					links[i].Wrote(b.now, len(lines))
					links[i].wrote += uint64(len(lines))
				}
				if r.IntN(2) == 0 {
					links[i].deliver()
				}
				if r.IntN(8) == 0 {
					b.pass(young)
					links[i].ack()
				}
			case 12:
				if r.IntN(4) == 0 {
					links = [2]*link{}
					b.kill()
				}
			case 11:
				if links[i] != nil {
					links[i].end([]outlet.Ending{outlet.Broken, outlet.Closed}[r.IntN(2)])
					links[i] = nil
				}
			}
		}
		var must [2]records.Spans
		for i, c := range b.cursors {
			for _, sp := range synced[i] {
				must[i] = append(must[i], slices.Collect(c.todo.Within(sp))...)
			}
		}
		put := int(b.named.tail.Line - tails[0] + b.held.tail.Line - tails[1])
		b.abandon()
		p.fail(r)
		os.RemoveAll(b.places.Memory[0])
		os.Mkdir(b.places.Memory[0], 0o700)
		b.fault = nil
		b.log.Reset()
		b.open()
		for i, c := range b.cursors {
			for _, sp := range must[i] {
				if !c.todo.Holds(sp) {
					t.Errorf("seed %d, %s: %v is missing, %d lines; there is %v; %s", seed, c.Name, sp, sp.Lines(), c.todo, &b.log)
				}
			}
			if lost := int(c.books.Dropped[SpoolFull]); lost > todo[i]+put {
				t.Errorf("seed %d, %s: %d lines are said to be lost, %d waited, and %d came since", seed, c.Name, lost, todo[i], put)
			}
		}
		for _, d := range b.to {
			l := b.begin(d.Name)
			for range 300 {
				b.step(b.now)
				allWhole(t, l.take())
				l.ack()
				b.pass(maturity)
				l.ack()
				if k := b.books(d.Name); k.Queued+k.Spooled-b.Held.todo.Lines() == 0 {
					break
				}
			}
			if k := b.books(d.Name); k.Adopted != k.forwarded()+k.Dropped[SpoolFull]+k.Dropped[QueueFull]+uint64(k.Queued+k.Spooled) {
				t.Errorf("seed %d: %+v", seed, k)
			}
		}
		b.abandon()
		os.RemoveAll(b.places.State)
		os.RemoveAll(b.places.Memory[0])
	}
}

// allWhole fails the test unless all lines are like those of many.
func allWhole(t testing.TB, got string) {
	for ln := range strings.Lines(got) {
		if !strings.HasPrefix(ln, "x.") || !strings.HasSuffix(ln, " 1 1700000000\n") || len(ln) != 100 {
			t.Fatalf("a wrong line: %q", ln)
		}
	}
}
