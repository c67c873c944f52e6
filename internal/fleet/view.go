package fleet

import (
	"cmp"
	"slices"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A View is the pool at one moment. It does not change.
type View struct {
	At      time.Time // of the last answer; zero: there was none
	Rows    []Row     // the names of the list in its order, and then others
	Waiting []pool.Waiter
	Names   int // of the list
	Held    int // names that somebody holds
	Free    int // names of the list that nobody holds

	Begun    time.Time // from when on the past is known; zero: it is not read yet
	MostHeld int       // at once since then

	Err      error // why etcd has not answered since
	ErrSince time.Time
}

// A Row is a name.
type Row struct {
	Name   string
	Listed bool
	Held   bool
	Lease  clientv3.LeaseID // of the claim; 0: none, and the name stays until somebody deletes it
	Owner  string           // of who holds it
	Since  time.Time        // zero: since before the past that is known
	Bars   []Bar            // its tenures, in the order in which etcd got them
}

// ByBegin returns the tenures by their starts: as hosts' clocks differ, that may not be the order in
// which etcd got them.
func (r Row) ByBegin() []Bar {
	return slices.SortedFunc(slices.Values(r.Bars), func(a, b Bar) int { return cmp.Compare(a.From, b.From) })
}

// A Bar is a tenure. Its times are in Unix milliseconds.
type Bar struct {
	Owner string
	From  int64  // 0: before the past that is known
	To    int64  // 0: it lasts, or nobody knows
	Ended string // why: release, or a membership.Loss; "" where To is 0
	Lasts bool
}

// newView returns what is known, by the last answer of etcd.
func (p *Pool) newView(g pool.Glance, now time.Time) *View {
	v := &View{At: now, Waiting: g.Waiting, Names: len(p.names), Held: len(g.Held)}
	whole := p.hasPast
	for i, name := range p.order() {
		its := p.past[name]
		row := Row{Name: name, Listed: i < len(p.names), Held: its.now.Revision != 0, Lease: its.now.Lease, Owner: its.now.Owner}
		row.Bars, row.Since = its.bars()
		if row.Listed && !row.Held {
			v.Free++
		}
		if row.Listed || row.Held || len(row.Bars) > 0 {
			v.Rows = append(v.Rows, row)
		}
		whole = whole && its.read
	}
	if whole {
		v.Begun, v.MostHeld = p.begun, max(mostHeld(v.Rows, p.begun, now), v.Held)
	}
	return v
}

// mostHeld returns how many names were held at once at most. A host that crashed, and whose name nobody
// has had since, may have been there until now; but not if it came before all this.
func mostHeld(rows []Row, since, now time.Time) int {
	type change struct {
		at int64
		by int
	}
	var changes []change
	for _, row := range rows {
		counted := since.UnixMilli() // a name is held once, whatever the clocks say
		for _, b := range row.ByBegin() {
			to := b.To
			if to == 0 && (b.Lasts || b.From >= since.UnixMilli()) {
				to = now.UnixMilli()
			}
			if from := max(b.From, counted); from < to {
				changes = append(changes, change{from, 1}, change{to, -1})
				counted = to
			}
		}
	}
	slices.SortFunc(changes, func(a, b change) int { return cmp.Or(cmp.Compare(a.at, b.at), a.by-b.by) })
	held, most := 0, 0
	for _, c := range changes {
		held += c.by
		most = max(most, held)
	}
	return most
}

// IsShort says whether the list has hardly a name to spare: less than a tenth of it was
// free at some moment.
func (v *View) IsShort() bool { return v.Names > 0 && 10*(v.Names-max(v.MostHeld, v.Held)) < v.Names }
