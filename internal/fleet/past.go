package fleet

import (
	"cmp"
	"slices"
	"time"
	"unique"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A past is what is known of one name.
type past struct {
	records []record // in the order in which etcd got them
	next    time.Time
	read    bool // the last days are known; if not, they are up to next
	earlier bool // and so is the last tenure before them

	seen  bool          // whether somebody holds it is known
	now   pool.Standing // who does; Revision 0: nobody
	since time.Time     // when that was first seen; zero: at the first look
	until time.Time     // it is looked at every time until then
	again bool          // it is looked at once more
}

// A record is a tenure in as little memory as possible: there are many.
type record struct {
	Bar   // To is 0 where the record has no end
	lease clientv3.LeaseID
	order int64
}

// stand takes note of who holds the name.
func (p *past) stand(s pool.Standing, now time.Time) {
	if p.seen && (s.Revision != p.now.Revision || s.Lease != p.now.Lease) {
		p.since, p.until = now, now.Add(lateEnds)
	}
	p.seen, p.now = true, s
}

// lacksEarlier says whether it is unknown who had the name at a moment of the last days.
func (p *past) lacksEarlier(at time.Time) bool {
	return p.read && !p.earlier && (len(p.records) == 0 || p.records[0].From > at.UnixMilli())
}

// ask returns what to ask for next; begun is when the last days began.
func (p *past) ask(name string, begun time.Time) pool.AskPast {
	ask := pool.AskPast{Name: name, From: begun}
	switch n := len(p.records); {
	case !p.read && p.next.After(begun):
		ask.From = p.next
	case !p.read || n == 0 && p.earlier:
	case p.lacksEarlier(time.Now().Add(-24 * time.Hour)):
		ask = pool.AskPast{Name: name, Before: begun, Last: true}
	case n > 0: // the one before may have got its end
		ask.From = time.UnixMilli(p.records[max(n-2, 0)].From).Add(-time.Minute)
	}
	return ask
}

// learn takes the answer to ask, and returns how many records have come.
func (p *past) learn(ask pool.AskPast, answer pool.Past) (more int) {
	before := len(p.records)
	for _, t := range answer.Tenures {
		r := record{Bar{Owner: unique.Make(t.Owner).Value(), From: t.From.UnixMilli(), Ended: unique.Make(t.Ended).Value()}, t.Lease, t.Created}
		if !t.Open() {
			r.To = t.To.UnixMilli()
		}
		i, known := slices.BinarySearchFunc(p.records, r, func(a, b record) int {
			return cmp.Or(cmp.Compare(a.order, b.order), cmp.Compare(a.From, b.From))
		})
		if known {
			p.records[i] = r
		} else {
			p.records = slices.Insert(p.records, i, r)
		}
	}
	switch {
	case ask.Last:
		p.earlier = true
	case !p.read:
		p.read, p.next = !answer.More, answer.Next
	default:
		p.again = answer.More
	}
	return len(p.records) - before
}

// forget drops the records of what ended before begun, and returns how many.
func (p *past) forget(begun time.Time) int {
	before := len(p.records)
	p.records = slices.DeleteFunc(p.records, func(r record) bool { return r.To != 0 && r.To < begun.UnixMilli() })
	return before - len(p.records)
}

// bars returns the tenures, in order, and since when the present one lasts; zero: since
// before the past that is known.
func (p *past) bars() (bars []Bar, since time.Time) {
	bars = make([]Bar, 0, len(p.records)+1)
	lasting := -1
	for i, r := range p.records {
		b := r.Bar
		switch {
		case b.To != 0:
		case p.now.Revision != 0 && r.lease == p.now.Lease && lasting < 0:
			lasting, b.Lasts = i, true
		case i+1 < len(p.records): // a crash left no end
			b.To, b.Ended = max(p.records[i+1].From, b.From), pool.Expired
		}
		bars = append(bars, b)
	}
	switch {
	case lasting >= 0:
		return bars, time.UnixMilli(bars[lasting].From)
	case p.now.Revision == 0 || !p.read && p.since.IsZero():
		return bars, time.Time{}
	}
	b := Bar{Owner: p.now.Owner, Lasts: true}
	if !p.since.IsZero() { // its record is still to be read
		b.From = p.since.UnixMilli()
	}
	if n := len(bars); n > 0 && bars[n-1].To == 0 {
		bars[n-1].To, bars[n-1].Ended = max(b.From, bars[n-1].From), pool.Expired
	}
	return append(bars, b), p.since
}
