package proxy

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prefixproxy/prefixproxy/internal/line"
	"github.com/prefixproxy/prefixproxy/internal/pulse"
	"github.com/prefixproxy/prefixproxy/membership"
)

// Names tells which name the host holds. It is all that the proxy knows of
// membership; *membership.Holder is one.
type Names interface {
	// Current returns the claim, or nil, and whether it may be used now. It
	// must be cheap and must not block: it is asked at every read and write.
	Current() (claim *membership.Claim, ok bool)

	// Changed returns a channel that is closed at the next change of what
	// Current or State return.
	Changed() <-chan struct{}

	// State returns what the holder is doing.
	State() membership.State
}

// heldMax is how long lines wait for a name when all names are taken.
const heldMax = 10 * time.Second

// naming answers, once a read, which claim holds and how lines are rewritten
// under it. Any goroutine may use it.
type naming struct {
	names Names
	rules atomic.Pointer[ruleset] // those in force; setRules replaces them
}

// A ruleset is how lines are rewritten, under each claim and under none.
type ruleset struct {
	nameless *rewriters                // under no claim
	cached   atomic.Pointer[rewriters] // of the last claim that was seen
}

// rewriters are what rewrites under one claim, by one set of rules.
type rewriters struct {
	rules line.Rules
	claim *membership.Claim // nil: under none
	by    [2]*line.Rewriter // by protocol

	other sync.Map // what rewrites Carbon under names of earlier tenures: name -> *line.Rewriter
}

func newNaming(names Names, rules line.Rules) *naming {
	n := &naming{names: names}
	n.setRules(rules)
	return n
}

// setRules changes how lines are rewritten that are named from now on. One
// goroutine calls it.
func (n *naming) setRules(rules line.Rules) {
	n.rules.Store(&ruleset{nameless: newRewriters(rules, nil)})
}

func newRewriters(rules line.Rules, claim *membership.Claim) *rewriters {
	r := &rewriters{rules: rules, claim: claim}
	name := ""
	if claim != nil {
		name = claim.Name()
	}
	for p := range r.by {
		r.by[p] = rules.Rewriter(line.Protocol(p), name)
	}
	if claim != nil {
		r.by[line.Carbon] = r.by[line.Carbon].Since(claim.Floor())
	}
	return r
}

// earlier returns what rewrites Carbon lines of an earlier second: under the name
// of the tenure which that falls into, or nil where it is another host's.
func (r *rewriters) earlier(second int64) *line.Rewriter {
	name, ok := r.claim.NameAt(second)
	if !ok {
		return nil
	}
	rw, ok := r.other.Load(name)
	if !ok {
		rw, _ = r.other.LoadOrStore(name, r.rules.Rewriter(line.Carbon, name))
	}
	return rw.(*line.Rewriter)
}

// current returns the rewriters of the claim that may be used now; without
// one, or while earlier lines of q wait for theirs, those that hold the lines
// that need a name.
func (n *naming) current(q queue) *rewriters {
	claim, ok := n.names.Current()
	isNamed := ok || claim != nil && q.namesLater()
	if !isNamed || q.isHolding() {
		return n.rules.Load().nameless
	}
	return n.of(claim)
}

// of returns the rewriters of a claim. Two readers may make them twice.
func (n *naming) of(claim *membership.Claim) *rewriters {
	s := n.rules.Load()
	if r := s.cached.Load(); r != nil && r.claim == claim {
		return r
	}
	r := newRewriters(s.nameless.rules, claim)
	s.cached.Store(r)
	return r
}

// standing says how long a claim may be used, and whether it is over: a claim that has no time left
// and isn't over is suspended. Its horizon is read first, so that what was over by then is not used.
func standing(claim *membership.Claim) (left time.Duration, isOver bool) {
	left = claim.Left()
	select {
	case <-claim.Done():
		return 0, true
	default:
		return left, false
	}
}

// isSuspended says whether a claim may not be used now, and may be later.
func isSuspended(claim *membership.Claim) bool {
	left, isOver := standing(claim)
	return left <= 0 && !isOver
}

// owns says whether ln, a line that leaves or is counted, carries the name of r, in any
// spelling: StatsD's rewriter knows those of Carbon's lines, too, that do.
func (r *rewriters) owns(ln []byte) bool {
	return ln[0] == line.Mark[0] || r.claim != nil && r.by[line.StatsD].Owns(ln)
}

// A namer gives the held lines their name when one comes, or drops them when
// they have waited too long. One goroutine runs it.
type namer struct {
	*naming
	pulse   pulse.Pulse
	queues  [2]queue // by protocol
	ingests [2]*ingest
}

func newNamer(n *naming, queues [2]queue, bad *badLines) *namer {
	m := &namer{naming: n, queues: queues}
	for p := range m.ingests {
		m.ingests[p] = newIngest(line.Protocol(p), queues[p], bad)
	}
	return m
}

// run names held lines until ctx ends.
func (n *namer) run(ctx context.Context) {
	defer n.pulse.Rest()
	var waiting time.Time // since when all names have been taken; zero: they are not
	tick := time.NewTimer(time.Hour)
	defer tick.Stop()
	for {
		n.pulse.Work()
		changed := n.names.Changed()
		if n.names.State() != membership.Waiting {
			waiting = time.Time{}
		} else if waiting.IsZero() {
			waiting = time.Now()
		}
		if n.pass(time.Now(), waiting) {
			tick.Reset(time.Second)
		} else {
			tick.Stop() // an idle host is left alone
		}
		n.pulse.Rest()
		select {
		case <-changed:
		case <-n.queues[line.StatsD].moreHeld():
		case <-n.queues[line.Carbon].moreHeld():
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// pass names what can be named and drops what has waited too long. It returns
// whether lines still wait.
func (n *namer) pass(now, waiting time.Time) (holding bool) {
	var noNameBefore time.Time
	if !waiting.IsZero() && now.Sub(waiting) >= heldMax {
		noNameBefore = now.Add(-heldMax)
	}
	for p, q := range n.queues {
		q.expire(now, noNameBefore)
		for n.nameHeld(q, n.ingests[p]) {
			n.pulse.Work()
		}
		holding = holding || q.isHolding()
	}
	return holding
}

// nameHeld gives one held batch its name. It returns whether there was a batch
// and a name for it.
func (n *namer) nameHeld(q queue, in *ingest) bool {
	claim, ok := n.names.Current()
	if !ok {
		return false
	}
	b := q.takeHeld()
	if b == nil {
		return false
	}
	in.begin(b.born, n.of(claim))
	in.again(b.buf)
	q.name(b.lines, &in.tally, in.end()...)
	b.free()
	return true
}
