package membership

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// A judge sees all processes at once, and says whether ever two claims on one
// name were valid.
type judge struct {
	sim *simulation

	mu        sync.Mutex
	processes []*process // that live
	excuses   []excuse
	first     map[*Claim]time.Duration // when it was seen first
	cautious  map[*Claim]bool
	order     map[tenureKey]int // in which etcd got the claims
	latest    map[string]*Claim // by name: the latest tenure under which it was used
	begun     map[string]int64  // by name: the second in which it was claimed first
	points    map[simPoint]*host
	mayHave   map[string]map[who]time.Time // by name: until when somebody may have it, as far as was seen
	revived   map[clientv3.LeaseID]bool    // leases that a restore brought back
	tally
	violations []string
}

// A tenureKey is a claim as etcd has it: one that was taken over has its revision
// still, and one whose doubt was over early is another *Claim.
type tenureKey struct {
	lease    clientv3.LeaseID
	revision int64
}

func (c *Claim) tenureKey() tenureKey { return tenureKey{c.lease, c.revision} }

// A who is a host at one of its boots.
type who struct {
	host  *host
	place state.Place
}

// A tally is what the judge counts.
type tally struct {
	schedules int
	faults    int
	claims    int
	uses      int
	lines     int           // Carbon lines that got a name
	nameless  int           // and that got none
	excepted  int           // overlaps that the specification does not promise away
	revoked   int           // and those of a lease from before a restore
	longest   time.Duration // of these, since the fault
}

func (t *tally) add(other tally) {
	t.schedules += other.schedules
	t.faults += other.faults
	t.claims += other.claims
	t.uses += other.uses
	t.lines += other.lines
	t.nameless += other.nameless
	t.excepted += other.excepted
	t.revoked += other.revoked
	t.longest = max(t.longest, other.longest)
}

// An excuse is a time during which two hosts may have one name: somebody
// deleted its key, or etcd lost data.
type excuse struct {
	name        string // "": all
	from, until time.Duration
}

func newJudge(s *simulation) *judge {
	return &judge{
		sim:      s,
		first:    make(map[*Claim]time.Duration),
		cautious: make(map[*Claim]bool),
		order:    make(map[tenureKey]int),
		latest:   make(map[string]*Claim),
		begun:    make(map[string]int64),
		points:   make(map[simPoint]*host),
		mayHave:  make(map[string]map[who]time.Time),
	}
}

func (j *judge) add(p *process) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.processes = append(j.processes, p)
}

func (j *judge) remove(p *process) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i, q := range j.processes {
		if q == p {
			j.processes = append(j.processes[:i:i], j.processes[i+1:]...)
			return
		}
	}
}

// excuse allows for two hosts with one name from now until none of those that
// hold it now can use it any more, and looks whether that is so then.
func (j *judge) excuse(name string, allowed time.Duration) {
	j.mu.Lock()
	defer j.mu.Unlock()
	now := j.sim.now()
	j.excuses = append(j.excuses, excuse{name: name, from: now, until: now + allowed})
	time.AfterFunc(allowed, func() {
		if name == "" {
			j.forget()
		}
		j.look()
	})
}

// revive notes the leases that a restore brings back.
func (j *judge) revive(leases map[int64]*modelLease) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.revived == nil {
		j.revived = make(map[clientv3.LeaseID]bool)
	}
	for id := range leases {
		j.revived[clientv3.LeaseID(id)] = true
	}
}

// forget forgets the order of tenures: a backup may have brought back an older
// one.
func (j *judge) forget() {
	j.mu.Lock()
	defer j.mu.Unlock()
	clear(j.latest)
}

// look looks for two valid claims on one name.
func (j *judge) look() {
	j.mu.Lock()
	defer j.mu.Unlock()
	valid := make(map[string]*Claim)
	for _, p := range j.processes {
		c := p.valid()
		if c == nil {
			continue
		}
		if other := valid[c.name]; other != nil {
			j.overlap(c, other, "two valid claims")
		}
		valid[c.name] = c
	}
}

// valid returns the process' claim if it is valid, be the process stopped or
// not.
func (p *process) valid() *Claim {
	c := p.holder.claim.Load()
	if c == nil || time.Duration(c.horizon.Load()) <= p.clock() {
		return nil
	}
	return c
}

// seen takes note of a claim. The caller holds mu.
func (j *judge) seen(p *process, c *Claim) {
	// A tenure without an end on record may have lasted until its successor, who comes
	// a TTL later, has waited for another.
	now, ttl := time.Now(), j.sim.cfg.TTL
	j.may(who{p.host, p.place}, c.name, now.Add(max(c.Left(), 0)+2*ttl+pool.ClocksApart+time.Second))
	if _, known := j.first[c]; !known {
		j.first[c] = j.sim.now()
		for other, until := range j.mayHave[c.name] {
			if until.After(now) { // until this one came, even if it came late
				j.may(other, c.name, now.Add(margin(ttl)+pool.ClocksApart+time.Second))
			}
		}
		j.may(who{}, c.name, now.Add(pool.ClocksApart)) // by a slower clock
		if !c.Valid() {
			j.may(who{}, c.name, now.Add(ttl+pool.ClocksApart+time.Second)) // it is doubted
		}
		knows := p.losses > 0 && j.sim.now()-p.lossSeen < j.sim.cfg.TTL*9/10
		j.cautious[c] = p.cautious.Load() || knows
		if _, known := j.begun[c.name]; !known {
			j.begun[c.name] = time.Now().Unix()
		}
		j.claims++
		j.sim.trace("%s claims %s at revision %d", p.host.name, c.name, c.revision)
	}
}

// changed is told that p's holder may have another claim.
func (j *judge) changed(p *process) {
	if c := p.holder.claim.Load(); c != nil {
		j.mu.Lock()
		j.seen(p, c)
		j.mu.Unlock()
	}
	j.look()
}

// noteLoss takes note of when p has seen that etcd lost data.
func (j *judge) noteLoss(p *process) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if n := p.holder.Stats().Losses[DataLoss]; n > p.losses {
		p.losses, p.lossSeen = n, j.sim.now()
	}
}

// use judges the use of a name under c, at this instant.
func (j *judge) use(p *process, c *Claim) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.uses++
	j.seen(p, c)
	if time.Duration(c.horizon.Load()) <= p.clock() {
		j.violation("%s uses %s past the horizon", p.host.name, c.name)
	}
	for _, q := range j.processes {
		if other := q.valid(); q != p && other != nil && other.name == c.name {
			j.overlap(c, other, "used while another claim is valid")
		}
	}
	if last := j.latest[c.name]; last != nil && j.order[c.tenureKey()] < j.order[last.tenureKey()] {
		j.overlap(c, last, "used after a later tenure")
		return
	}
	j.latest[c.name] = c
}

// A simPoint is what Graphite would store one value for.
type simPoint struct {
	name   string
	second int64
}

// line judges the naming of a Carbon line of a second under c, which is valid:
// no other host has written that point. Seconds before a name was claimed first
// are whose they may be; and a cloned machine takes its original's for its own.
func (j *judge) line(p *process, c *Claim, second int64) {
	name, ok := c.NameAt(second)
	j.mu.Lock()
	defer j.mu.Unlock()
	begun, known := j.begun[name]
	if !ok && len(j.excuses) == 0 && !p.host.cloned {
		j.dropped(p, c, second)
	}
	if !ok || !known || second <= begun+int64(pool.ClocksApart/time.Second) || len(j.excuses) > 0 || p.host.cloned {
		return
	}
	j.lines++
	writer, written := j.points[simPoint{name, second}]
	if written && writer != p.host {
		j.violation("%s names a line of second %d %s, and so did %s", p.host.name, second-j.sim.begin.Unix(), name, writer.name)
	}
	j.points[simPoint{name, second}] = p.host
}

// dropped judges that a line of a second gets no name under c: somebody else may have
// had it then. This host at another boot is another: it can't be told from a clone. The
// caller holds mu.
func (j *judge) dropped(p *process, c *Claim, second int64) {
	j.nameless++
	for other, until := range j.mayHave[c.name] {
		if other != (who{p.host, p.place}) && second <= until.Unix() {
			return
		}
	}
	j.violation("%s drops a line of second %d of %s, which nobody else had then", p.host.name, second-j.sim.begin.Unix(), c.name)
}

// may takes note until when somebody may have a name; the zero who is not of the
// simulation. The caller holds mu.
func (j *judge) may(w who, have string, until time.Time) {
	if j.mayHave[have] == nil {
		j.mayHave[have] = make(map[who]time.Time)
	}
	j.mayHave[have][w] = later(j.mayHave[have][w], until)
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// overlap books that a and b share a name. The caller holds mu.
func (j *judge) overlap(a, b *Claim, how string) {
	now := j.sim.now()
	for _, e := range j.excuses {
		if now < e.from || now > e.until || e.name != "" && e.name != a.name {
			continue
		}
		if e.name == "" && (j.wary(a, e) || j.wary(b, e)) {
			continue // who knows of the loss waits, and has no excuse
		}
		j.excepted++
		j.longest = max(j.longest, now-e.from)
		return
	}
	if j.revived[a.lease] || j.revived[b.lease] {
		j.revoked++ // by a leader of the restored etcd: see doc.go
		return
	}
	j.violation("%s on %s, of revisions %d and %d", how, a.name, a.revision, b.revision)
}

func (j *judge) wary(c *Claim, e excuse) bool { return j.cautious[c] && j.first[c] > e.from }

// violation books one. The caller holds mu.
func (j *judge) violation(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	j.sim.trace("VIOLATION: %s", text)
	j.violations = append(j.violations, text)
}

// wrote is told by the model of every put: it notes the order of claims and which
// are to be cautious, and that a process has one name at most.
func (j *judge) wrote(old, kv *mvccpb.KeyValue) {
	m := j.sim.etcd
	prefix := pool.NamesKey(j.sim.cfg.Pool)
	l := m.leases[kv.Lease]
	isName := func(key string) bool {
		name, ok := strings.CutPrefix(key, prefix)
		return ok && slices.Contains(j.sim.cfg.Names, name)
	}
	if !isName(string(kv.Key)) || l == nil {
		return
	}
	j.mu.Lock()
	j.order[tenureKey{clientv3.LeaseID(kv.Lease), kv.CreateRevision}] = len(j.order) + 1
	j.mu.Unlock()
	p := l.by
	_, marked := m.keys[pool.MarkerKey(j.sim.cfg.Pool)]
	takenOver := false
	if old != nil {
		before := m.leases[old.Lease]
		if before == nil || before.by.host.origin() != p.host.origin() {
			j.say("%s overwrites %s, which was not its own", p.host.name, kv.Key)
		}
		takenOver = before == nil || before.by.place != p.place
	}
	p.cautious.Store(marked || takenOver)

	names := 0
	for _, other := range m.keys {
		if l := m.leases[other.Lease]; l != nil && l.by == p && !l.restored && isName(string(other.Key)) {
			names++
		}
	}
	if names > 1 {
		j.say("%s has %d names in etcd at once", p.host.name, names)
	}
}

func (j *judge) say(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.violation(format, args...)
}
