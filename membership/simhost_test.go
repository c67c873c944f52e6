package membership

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/statedir"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// A host is a simulated machine with one state directory. It runs one process
// after the other.
type host struct {
	sim    *simulation
	name   string
	dir    string // the state directory, which is the host's place as well
	seed   uint64 // of its processes' randomness
	disk   uint64 // which a cloned machine has as well
	cloned bool   // from another machine, while that ran
	from   *host  // whose state directory it got a copy of; nil: nobody's

	boots int
	zero  time.Time    // when its clock would have shown 0
	rate  float64      // of its clock
	ahead atomic.Int64 // its wall clock, of the others' mean

	process *process // nil: none runs
	runs    int      // processes so far
	busy    bool     // a fault has it
}

// reboot begins another boot: the clock starts anew.
func (h *host) reboot() {
	h.boots++
	h.zero = time.Now().Add(-10 * time.Second)
}

// setClock sets the wall clock: no two hosts' are more than pool.ClocksApart apart.
func (h *host) setClock(r *rand.Rand) {
	most := int64(pool.ClocksApart) * 49 / 100
	h.ahead.Store(r.Int64N(2*most) - most)
}

func (h *host) wall() time.Time { return time.Now().Add(time.Duration(h.ahead.Load())) }

// origin returns the host whose claims it may take for its own.
func (h *host) origin() *host {
	for h.from != nil {
		h = h.from
	}
	return h
}

// place is the host's, at this boot.
func (h *host) place() state.Place {
	return state.Place{Boot: fmt.Sprint(h.name, "-", h.boots), Inode: h.disk}
}

// A process is one run of a holder, with its way to etcd and a user who asks
// for the name at random moments.
//
// Nothing can stop a goroutine. A stopped process is stopped where it touches
// the world: it reads no clock, and takes and sends no message, until it goes
// on. Whatever its timers did in between stays without effect.
type process struct {
	host    *host
	place   state.Place
	holder  *Holder
	way     *way
	clock   clock // the host's, never stopped
	stopped stop
	dead    chan struct{} // closed by a kill

	cautious atomic.Bool   // the last claim was made where others may not know of us: it waits for one TTL
	losses   uint64        // of data, that it has seen; the judge's, as is
	lossSeen time.Duration // when it saw the last
	user     chan struct{} // closed: no more use of the name
	idle     sync.WaitGroup
	end      context.CancelFunc // of the holder's Run
	ended    sync.WaitGroup
}

// A stop is when a process does not run.
type stop struct {
	mu      sync.Mutex
	from    time.Time
	until   time.Time
	suspend bool          // timers stand still too
	next    time.Duration // to be stopped for so long when a request has arrived at etcd; 0: not
}

// awake returns when the process runs; false when it is dead.
func (p *process) awake() bool {
	for {
		p.stopped.mu.Lock()
		wait := time.Until(p.stopped.until)
		if wait > 0 && p.stopped.suspend {
			wait += time.Since(p.stopped.from) // what was to be done so long after the suspension began is done so long after it ended
		}
		p.stopped.mu.Unlock()
		if wait <= 0 || p.isDead() {
			return !p.isDead()
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-p.dead:
			timer.Stop()
		}
	}
}

func (p *process) isDead() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

// stop stops the process for d from now.
func (p *process) stop(d time.Duration, suspend bool) {
	p.stopped.mu.Lock()
	defer p.stopped.mu.Unlock()
	p.stopped.from, p.stopped.until, p.stopped.suspend = time.Now(), time.Now().Add(d), suspend
}

// stopInRequest stops it for d when its next request has arrived at etcd.
func (p *process) stopInRequest(d time.Duration) {
	p.stopped.mu.Lock()
	defer p.stopped.mu.Unlock()
	p.stopped.next = d
}

// arrived is told that a request has.
func (p *process) arrived() {
	p.stopped.mu.Lock()
	d := p.stopped.next
	p.stopped.next = 0
	p.stopped.mu.Unlock()
	if d > 0 {
		p.stop(d, false)
	}
}

// now is the clock that the holder reads.
func (p *process) now() time.Duration {
	p.awake()
	return p.clock()
}

// start runs a process on the host.
func (h *host) start() {
	h.runs++
	zero, rate := h.zero, h.rate
	ctx, end := context.WithCancel(context.Background())
	p := &process{
		host:  h,
		place: h.place(),
		clock: func() time.Duration { return time.Duration(float64(time.Since(zero)) * rate) },
		dead:  make(chan struct{}),
		user:  make(chan struct{}),
		end:   end,
	}
	p.way = &way{etcd: h.sim.etcd, process: p, seed: h.seed + uint64(h.runs)}
	cfg := h.sim.cfg
	cfg.Owner = h.name
	etcd := newStore(p.way.client(ctx), p.way, wayLeases{w: p.way}, cfg)
	dir, err := statedir.Open(h.dir)
	if err != nil {
		panic(err)
	}
	p.holder = newHolder(etcd, state.New(dir, p.place), p.now, h.sim.log.With("host", h.name))
	p.holder.jitter, p.holder.records.jitter = p.way.jitter, p.way.jitter
	p.holder.wall = h.wall
	h.process = p
	h.sim.judge.add(p)

	p.ended.Go(func() {
		defer dir.Close()
		p.holder.Run(ctx)
	})
	p.ended.Go(func() { p.watch(ctx) })
	use := rand.New(rand.NewPCG(h.seed, ^uint64(h.runs)))
	p.idle.Go(func() { p.use(use) })
}

// watch lets the judge look whenever the holder changes: that is when two
// claims can begin to be valid at once.
func (p *process) watch(ctx context.Context) {
	for ctx.Err() == nil {
		changed := p.holder.Changed()
		p.host.sim.judge.changed(p)
		p.host.sim.judge.noteLoss(p)
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
}

// use uses the name at random moments, as it may be used.
func (p *process) use(r *rand.Rand) {
	for {
		timer := time.NewTimer(time.Duration(r.Int64N(int64(600 * time.Millisecond))))
		select {
		case <-timer.C:
		case <-p.user:
			timer.Stop()
			return
		case <-p.dead:
			timer.Stop()
			return
		}
		c, ok := p.holder.Current()
		// Who is stopped between asking and using may be late: that is not promised.
		if asked := time.Now(); ok && p.awake() && time.Now().Equal(asked) {
			p.host.sim.judge.use(p, c)
			p.host.sim.judge.line(p, c, p.host.wall().Unix()-r.Int64N(1+r.Int64N(60)))
		}
	}
}

// kill ends the process at once, as SIGKILL does: what it writes still in its
// state directory, because nothing can stop a goroutine, was never written.
func (h *host) kill() {
	p := h.process
	h.process = nil
	files := readFiles(h.dir)
	close(p.dead)
	p.idle.Wait()
	h.sim.judge.remove(p)
	p.end()
	p.ended.Wait()
	writeFiles(h.dir, files)
}

// quit ends the process in its order: the use first, the name last.
func (h *host) quit() {
	p := h.process
	close(p.user)
	p.idle.Wait()
	p.end()
	p.ended.Wait()
	h.sim.judge.remove(p)
	h.process = nil
}

// copyTo copies the state directory of h to another host.
func (h *host) copyTo(other *host) {
	other.from = h
	writeFiles(other.dir, readFiles(h.dir))
}

// readFiles returns what is in a directory.
func readFiles(dir string) map[string][]byte {
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		panic(err)
	}
	files := make(map[string][]byte)
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it was just renamed
		}
		files[filepath.Base(name)] = data
	}
	return files
}

func writeFiles(dir string, files map[string][]byte) {
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			panic(err)
		}
	}
}
