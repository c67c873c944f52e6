package fleet

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// fakeEtcd is a pool in etcd, as pool.LookAt shows it.
type fakeEtcd struct {
	mu       sync.Mutex
	held     map[string]pool.Standing
	tenures  []pool.Tenure
	reads    int
	asks     []pool.AskPast // of the last read
	err      error
	takes    time.Duration
	mostAsks int
	atOnce   int // tenures that it gives
}

func (e *fakeEtcd) look(ctx context.Context, asks []pool.AskPast) (g pool.Glance, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	e.mu.Lock()
	takes := e.takes
	e.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return g, ctx.Err()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.reads++
	e.asks, e.mostAsks = asks, max(e.mostAsks, len(asks))
	if e.err != nil {
		return g, e.err
	}
	g.Held = maps.Clone(e.held)
	of := make(map[string][]pool.Tenure)
	for _, t := range e.tenures {
		of[t.Name] = append(of[t.Name], t)
	}
	for _, ask := range asks {
		var past pool.Past
		if ask.Name == "" {
			for name := range of {
				if (ask.After == "" || name > ask.After) && (ask.Until == "" || name < ask.Until) && (past.Name == "" || name < past.Name) {
					past.Name = name
				}
			}
		}
		for _, t := range of[ask.Name] {
			if !t.From.Before(ask.From) && (ask.Before.IsZero() || t.From.Before(ask.Before)) {
				past.Tenures = append(past.Tenures, t)
			}
		}
		switch n := len(past.Tenures); {
		case ask.Last:
			past.Tenures = past.Tenures[max(n-1, 0):]
		case n > e.atOnce:
			past.Tenures, past.More = past.Tenures[:e.atOnce], true
			past.Next = past.Tenures[e.atOnce-1].From.Add(time.Millisecond)
		}
		g.Past = append(g.Past, past)
	}
	return g, nil
}

func (e *fakeEtcd) set(change func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	change()
}

func run(t *testing.T, names []string, test func(t *testing.T, e *fakeEtcd, p *Pool)) {
	synctest.Test(t, func(t *testing.T) {
		e := &fakeEtcd{takes: 50 * time.Millisecond, atOnce: 3}
		p := New(names, MaxOthers, e.look)
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { p.Run(ctx) })
		defer running.Wait()
		defer stop()
		test(t, e, p)
	})
}

// show gives the bars of a view, in minutes before now.
func show(v *View, now time.Time) string {
	var b strings.Builder
	ago := func(milli int64) string {
		if milli == 0 {
			return "?"
		}
		return fmt.Sprint(int(now.Sub(time.UnixMilli(milli)).Minutes()))
	}
	for _, row := range v.Rows {
		fmt.Fprintf(&b, "%s:", row.Name)
		for _, bar := range row.Bars {
			end := ago(bar.To) + " " + bar.Ended
			if bar.Lasts {
				end = "now"
			}
			fmt.Fprintf(&b, " %s %s-%s;", bar.Owner, ago(bar.From), end)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// Whatever the past of a name is, the picture shows it.
func TestBars(t *testing.T) {
	run(t, []string{"a", "b", "c", "d", "e"}, func(t *testing.T, e *fakeEtcd, p *Pool) {
		now := time.Now()
		tenure := func(name, owner string, lease clientv3.LeaseID, from, to int, ended string) {
			t := pool.Tenure{Name: name, Owner: owner, Lease: lease, From: now.Add(-time.Duration(from) * time.Minute), Ended: ended}
			if ended != "" {
				t.To = now.Add(-time.Duration(to) * time.Minute)
			}
			e.tenures = append(e.tenures, t)
		}
		tenure("a", "web1", 0, 300, 200, "release")
		tenure("a", "web2", 0, 199, 100, "expired")
		tenure("a", "web3", 1, 90, 0, "") // lasts
		for i := range 10 {               // more than one answer holds
			tenure("b", fmt.Sprintf("x%d", i), 0, 100-10*i, 95-10*i, "release")
		}
		tenure("c", "old", 1, 20*24*60, 0, "")               // lasts since long ago
		tenure("d", "gone", 0, 30*24*60, 9*24*60, "release") // before the last days
		tenure("d", "crashed", 0, 50, 0, "")                 // and nobody since
		tenure("bb", "off", 0, 60, 40, "release")            // the list had these names
		tenure("bc", "off", 0, 30, 20, "lost")
		tenure("f", "gone", 0, 30*24*60, 9*24*60, "release")
		e.held = map[string]pool.Standing{"a": {Owner: "web3", Lease: 1, Revision: 5}, "c": {Owner: "old", Lease: 1, Revision: 2}, "z": {Owner: "other", Lease: 3, Revision: 9}}

		v := p.View(t.Context())
		want := `a: web1 300-200 release; web2 199-100 expired; web3 90-now;
b: x0 100-95 release; x1 90-85 release; x2 80-75 release; x3 70-65 release; x4 60-55 release; x5 50-45 release; x6 40-35 release; x7 30-25 release; x8 20-15 release; x9 10-5 release;
c: old 28800-now;
d: crashed 50-? ;
e:
z: other ?-now;
bb: off 60-40 release;
bc: off 30-20 lost;
`
		if got := show(v, now); got != want {
			t.Errorf("got\n%swant\n%s", got, want)
		}
		if v.Held != 3 || v.MostHeld != 6 || v.Begun.IsZero() {
			t.Errorf("held %d, most %d, begun %v; want 3, 6 and a time", v.Held, v.MostHeld, v.Begun)
		}
	})
}

// Of a pool with more tenures than are kept, the last ones are known.
func TestBusyPool(t *testing.T) {
	names := membership.PrefixedNumerics("web-", 200)
	run(t, names, func(t *testing.T, e *fakeEtcd, p *Pool) {
		const each = 400
		step := Kept / each
		now := time.Now()
		e.atOnce, e.held = 100, make(map[string]pool.Standing)
		for _, name := range names {
			for i := range each { // the last one lasts
				from := now.Add(-step * time.Duration(each-i))
				its := pool.Tenure{Name: name, Owner: "web", Lease: clientv3.LeaseID(i + 1), From: from, Created: int64(i)}
				if i < each-1 {
					its = its.End(from.Add(step/2), pool.Released)
				}
				e.tenures = append(e.tenures, its)
			}
			e.held[name] = pool.Standing{Owner: "web", Lease: each, Revision: 5}
		}
		v := p.View(t.Context())
		if v.MostHeld != len(names) || v.Begun.IsZero() || v.Begun.After(now.Add(-24*time.Hour)) {
			t.Errorf("most held %d since %v, want %d in the last day at least", v.MostHeld, v.Begun, len(names))
		}
		for _, row := range v.Rows {
			if n := len(row.Bars); n < each/7 || row.Since.UnixMilli() != now.Add(-step).UnixMilli() {
				t.Fatalf("%s: %d tenures, held since %v; want those of the last day, and since %v", row.Name, n, row.Since, now.Add(-step))
			}
		}
		if p.tenures > maxTenures {
			t.Errorf("%d tenures are kept, want %d at most", p.tenures, maxTenures)
		}
	})
}

// Who refreshes knows since when a name is held as soon as it is.
func TestRefresh(t *testing.T) {
	run(t, []string{"a"}, func(t *testing.T, e *fakeEtcd, p *Pool) {
		p.Refresh(t.Context())
		claimed := time.Now()
		e.tenures = []pool.Tenure{{Name: "a", Owner: "web1", Lease: 1, From: claimed}}
		e.held = map[string]pool.Standing{"a": {Owner: "web1", Lease: 1, Revision: 5}}
		<-time.After(2 * time.Second)
		if got := p.Refresh(t.Context()).Rows[0].Since; got.UnixMilli() != claimed.UnixMilli() {
			t.Errorf("held since %v, want %v", got, claimed)
		}
		before := e.reads
		e.err = errors.New("no etcd")
		if got := p.Refresh(t.Context()).Err; got != e.err || e.reads != before+1 {
			t.Errorf("got %v after %d reads, want the error of the first", got, e.reads-before)
		}
	})
}

// However many look: one request in 10 s, none while nobody does; and one a minute for the
// metric.
func TestReads(t *testing.T) {
	names := membership.PrefixedNumerics("web-", 1000)
	run(t, names, func(t *testing.T, e *fakeEtcd, p *Pool) {
		p.View(t.Context())
		first := e.reads
		if first > firstReads || e.mostAsks > pool.AsksPerGlance {
			t.Errorf("the first view took %d reads with %d asks", first, e.mostAsks)
		}
		begun := time.Now()
		var browsers sync.WaitGroup
		for range 50 {
			browsers.Go(func() {
				for time.Since(begun) < time.Minute-time.Millisecond {
					p.View(t.Context())
					<-time.After(100 * time.Millisecond)
				}
			})
		}
		browsers.Wait()
		if more := e.reads - first; more > 6 {
			t.Errorf("50 browsers cost %d reads in a minute, want 6", more)
		}
		before := e.reads
		sidebyside.Pass(time.Hour)
		if e.reads != before {
			t.Errorf("%d reads, and nobody looks", e.reads-before)
		}
		for begun := time.Now(); time.Since(begun) < 10*time.Minute; sidebyside.Pass(10 * time.Second) {
			p.Known()
		}
		if more := e.reads - before; more < 9 || more > 10 {
			t.Errorf("the metric cost %d reads in 10 minutes, want 10", more)
		}
	})
}

// The first view takes as many requests as the past does, also after a scrape.
func TestFirstView(t *testing.T) {
	run(t, []string{"a", "b", "c"}, func(t *testing.T, e *fakeEtcd, p *Pool) {
		p.Counts(t.Context())
		sidebyside.Pass(time.Second)
		if p.View(t.Context()); e.reads > 4 { // the scrape; the last days, and the gaps between names; what was before
			t.Errorf("%d reads", e.reads)
		}
	})
}

// What changes is seen at the next look, and its record soon after.
func TestChanges(t *testing.T) {
	run(t, []string{"a", "b"}, func(t *testing.T, e *fakeEtcd, p *Pool) {
		p.View(t.Context())
		sidebyside.Pass(Fresh)
		claimed := time.Now()
		e.set(func() {
			e.held = map[string]pool.Standing{"a": {Owner: "web1", Lease: 7, Revision: 5}}
			e.tenures = append(e.tenures, pool.Tenure{Name: "a", Owner: "web1", Lease: 7, From: claimed})
		})
		if row := p.View(t.Context()).Rows[0]; !row.Held || row.Owner != "web1" || len(row.Bars) != 1 || !row.Bars[0].Lasts {
			t.Errorf("claimed: %+v", row)
		}
		sidebyside.Pass(Fresh)
		if row := p.View(t.Context()).Rows[0]; !row.Since.Equal(claimed.Truncate(time.Millisecond)) || len(row.Bars) != 1 {
			t.Errorf("its record is there: %+v, want since %v", row, claimed)
		}
		sidebyside.Pass(Fresh)
		e.set(func() {
			e.held = nil
			e.tenures[0].To, e.tenures[0].Ended = time.Now(), "release"
		})
		p.View(t.Context())
		sidebyside.Pass(Fresh)
		if row := p.View(t.Context()).Rows[0]; row.Held || len(row.Bars) != 1 || row.Bars[0].Ended != "release" {
			t.Errorf("released: %+v", row)
		}
		// Held and released while nobody looked.
		sidebyside.Pass(time.Hour)
		e.set(func() {
			e.tenures = append(e.tenures, pool.Tenure{Name: "b", Owner: "web2", Lease: 8, From: time.Now().Add(-30 * time.Minute), To: time.Now().Add(-20 * time.Minute), Ended: "release"})
		})
		if row := p.View(t.Context()).Rows[1]; row.Held || len(row.Bars) != 1 {
			t.Errorf("while nobody looked: %+v", row)
		}
		// And more often than one answer of etcd tells.
		sidebyside.Pass(time.Hour)
		e.set(func() {
			for i := range 5 {
				from := time.Now().Add(time.Duration(2*i-20) * time.Minute)
				e.tenures = append(e.tenures, pool.Tenure{Name: "b", Owner: "web3", Lease: 9, From: from, To: from.Add(time.Second), Ended: "release"})
			}
		})
		for range 5 {
			p.View(t.Context())
			sidebyside.Pass(Fresh)
		}
		if row := p.View(t.Context()).Rows[1]; len(row.Bars) != 6 {
			t.Errorf("often, while nobody looked: %+v", row)
		}
	})
}

// However long the list, all of it is looked at again.
func TestChangesInALongList(t *testing.T) {
	names := membership.PrefixedNumerics("web-", 3*pool.AsksPerGlance)
	run(t, names, func(t *testing.T, e *fakeEtcd, p *Pool) {
		p.View(t.Context())
		sidebyside.Pass(time.Hour) // held and released while nobody looked
		for _, name := range names {
			e.tenures = append(e.tenures, pool.Tenure{Name: name, Owner: "web1", Lease: 8, From: time.Now().Add(-30 * time.Minute), To: time.Now().Add(-20 * time.Minute), Ended: "release"})
		}
		for range 3 {
			p.View(t.Context())
			sidebyside.Pass(Fresh)
		}
		for _, row := range p.View(t.Context()).Rows {
			if len(row.Bars) != 1 {
				t.Errorf("%s has %d tenures, want 1", row.Name, len(row.Bars))
			}
		}
	})
}

// An etcd that does not answer costs no page more than its patience; what is known stays.
func TestEtcdIsAway(t *testing.T) {
	run(t, []string{"a"}, func(t *testing.T, e *fakeEtcd, p *Pool) {
		e.held = map[string]pool.Standing{"a": {Owner: "web1", Lease: 7, Revision: 5}}
		p.View(t.Context())
		sidebyside.Pass(Fresh)
		e.set(func() { e.err = errors.New("no answer") })
		v := p.View(t.Context())
		if v.Err == nil || len(v.Rows) != 1 || !v.Rows[0].Held {
			t.Errorf("got %+v, want the last view, and the error", v)
		}
		since := v.ErrSince
		sidebyside.Pass(time.Minute)
		e.set(func() { e.takes = time.Hour })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begun := time.Now()
		if v := p.View(ctx); time.Since(begun) != time.Second || v == nil {
			t.Errorf("waited %v", time.Since(begun))
		}
		sidebyside.Pass(time.Minute)
		e.set(func() { e.takes, e.err = 0, nil })
		if v := p.View(t.Context()); v.Err != nil || v.At.Before(since) {
			t.Errorf("etcd is back: %+v", v)
		}
	})
}

// Whatever somebody writes to etcd, what is kept is bounded.
func TestBounds(t *testing.T) {
	run(t, []string{"a"}, func(t *testing.T, e *fakeEtcd, p *Pool) {
		for turn := range 20 {
			e.set(func() {
				e.held = make(map[string]pool.Standing)
				for i := range 1000 {
					e.held[fmt.Sprintf("x%d-%d", turn, i)] = pool.Standing{Owner: "evil", Revision: int64(turn + 1)}
				}
			})
			if v := p.View(t.Context()); v.Held != 1000 || len(v.Rows) > 1+MaxOthers {
				t.Errorf("%d held in %d rows", v.Held, len(v.Rows))
			}
			sidebyside.Pass(Fresh)
		}
		if len(p.past) > 1+MaxOthers {
			t.Errorf("%d names are kept", len(p.past))
		}
	})
}

// A name is held once, though its next holder claims it, and waits, before the last one
// has let go.
func TestMostHeldAtOnce(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) int64 { return now.Add(-d).UnixMilli() }
	rows := []Row{
		{Bars: []Bar{{From: ago(time.Hour), To: ago(time.Minute)}, {From: ago(2 * time.Minute), Lasts: true}}},
		{Bars: []Bar{{To: ago(time.Minute)}, {From: ago(3 * time.Minute), To: ago(2 * time.Minute)}, {From: ago(2 * time.Hour), To: ago(time.Minute)}}},
		{Bars: []Bar{{From: ago(3 * time.Hour)}}},  // it crashed
		{Bars: []Bar{{From: ago(25 * time.Hour)}}}, // and this one long ago
	}
	if got := mostHeld(rows, now.Add(-24*time.Hour), now); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
}
