package membership

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// What a page asks a pool again and again: it costs etcd one request, of what the member
// that is asked knows by itself, and never makes the client move on to another one.

// A Glance is a pool as one request shows it.
type Glance struct {
	Held    []Standing // those of the list in its order, and then others
	Waiting []Waiter   // the one that waits longest first
	Free    int        // names of the list that nobody holds
	Past    []Past     // what was asked for, in that order
}

// A Standing is a name that somebody holds.
type Standing struct {
	Name, Owner string
	Listed      bool             // the name is of the list that was given
	Lease       clientv3.LeaseID // 0: none, the name does not go by itself
	Revision    int64            // at which it was claimed
}

// An AskPast asks for those tenures of a name that began from From on and before Before;
// the zero times are no bounds.
type AskPast struct {
	Name         string
	From, Before time.Time
	Last         bool // only the last of them
}

// A Past is some of a name's tenures, in the order in which etcd got them. Where there is
// More, they go on from Next.
type Past struct {
	Tenures []Tenure
	More    bool
	Next    time.Time
}

// The bounds of a Glance. Etcd takes 128 operations at once.
const (
	AsksPerGlance  = 110
	tenuresPerAsk  = 100
	keysPerGlance  = 2 * keysPerRead
	pagesPerGlance = 8
)

// LookAt returns a pool at a glance, with some of its past: AsksPerGlance at most. It is
// one request for as many as 2,000 names; more where somebody has put values there that
// are too long.
func LookAt(ctx context.Context, c *Client, pool string, names []string, asks []AskPast) (g Glance, err error) {
	spans := []keySpan{{from: namesKey(pool), end: clientv3.GetPrefixRangeEnd(namesKey(pool)), limit: keysPerGlance},
		{from: waitingKey(pool), end: clientv3.GetPrefixRangeEnd(waitingKey(pool)), limit: keysPerGlance}}
	for _, ask := range asks[:min(len(asks), AsksPerGlance)] {
		spans = append(spans, ask.span(pool))
	}
	pages, err := c.read(ctx, spans)
	if err != nil {
		return Glance{}, fmt.Errorf("look at pool %s: %w", pool, c.trouble(err))
	}
	for i := range 2 { // a long list
		for n := 1; pages[i].more && n < pagesPerGlance; n++ {
			spans[i].from = pages[i].last + "\x00"
			next, err := c.read(ctx, spans[i:i+1])
			if err != nil {
				return Glance{}, fmt.Errorf("look at pool %s: %w", pool, c.trouble(err))
			}
			pages[i].kvs = append(pages[i].kvs, next[0].kvs...)
			pages[i].more, pages[i].last = next[0].more, next[0].last
		}
	}
	g.stand(pool, names, pages[0].kvs)
	holds := make(map[clientv3.LeaseID]bool, len(g.Held))
	for _, s := range g.Held {
		holds[s.Lease] = true
	}
	g.Waiting = waitersOf(pool, pages[1].kvs, holds)
	now := time.Now()
	for _, page := range pages[2:] {
		past := Past{More: page.more}
		past.Tenures = slices.DeleteFunc(readTenures(page.kvs, tenuresKey(pool)), func(t Tenure) bool { return t.inFuture(now) })
		if milli, ok := milliOf(page.last); ok && page.more {
			past.Next = time.UnixMilli(milli + 1)
		} else {
			past.More = false
		}
		g.Past = append(g.Past, past)
	}
	return g, nil
}

// stand fills in who holds a name.
func (g *Glance) stand(pool string, names []string, kvs []*mvccpb.KeyValue) {
	place := make(map[string]int, len(names))
	for i, name := range names {
		place[name] = i
	}
	for _, kv := range kvs {
		name := strings.TrimPrefix(string(kv.Key), namesKey(pool))
		if !isName(name) {
			continue
		}
		_, listed := place[name]
		g.Held = append(g.Held, Standing{name, showOwner(string(kv.Value)), listed, clientv3.LeaseID(kv.Lease), kv.CreateRevision})
	}
	slices.SortFunc(g.Held, func(a, b Standing) int {
		if a.Listed && b.Listed {
			return place[a.Name] - place[b.Name]
		}
		if a.Listed != b.Listed {
			if a.Listed {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	g.Free = len(names)
	for _, s := range g.Held {
		if s.Listed {
			g.Free--
		}
	}
}

func (a AskPast) span(pool string) keySpan {
	all := tenuresKey(pool) + a.Name + "/"
	s := keySpan{from: all, end: clientv3.GetPrefixRangeEnd(all), limit: tenuresPerAsk}
	if !a.From.IsZero() {
		s.from = fmt.Sprintf("%s%013d", all, keyMilli(a.From))
	}
	if !a.Before.IsZero() {
		s.end = fmt.Sprintf("%s%013d", all, keyMilli(a.Before))
	}
	if s.last = a.Last; a.Last {
		s.limit = 1
	}
	return s
}

// milliOf returns the time in the key of a record.
func milliOf(key string) (milli int64, ok bool) {
	n, err := fmt.Sscanf(key[strings.LastIndexByte(key, '/')+1:], "%013d-", &milli)
	return milli, n == 1 && err == nil
}

// A keySpan is some keys of etcd: the first ones of a range, or the last.
type keySpan struct {
	from, end string
	limit     int64
	last      bool
}

func (s keySpan) op(more ...clientv3.OpOption) clientv3.Op {
	opts := append(more, clientv3.WithRange(s.end), clientv3.WithLimit(s.limit), clientv3.WithSerializable())
	if s.last {
		opts = append(opts, clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	}
	return clientv3.OpGet(s.from, opts...)
}

// A keyPage is what stands at the keys of a span, but for values that are too long to be
// ours.
type keyPage struct {
	kvs  []*mvccpb.KeyValue
	last string // key that was looked at
	more bool   // behind that
}

// read reads spans in one request. Where the answer is too long, it is asked for in
// parts.
func (c *Client) read(ctx context.Context, spans []keySpan) ([]keyPage, error) {
	ops := make([]clientv3.Op, len(spans))
	for i, s := range spans {
		ops[i] = s.op()
	}
	resp, err := c.Txn(ctx).Then(ops...).Commit()
	switch {
	case isTooLong(err) && len(spans) > 1:
		half := len(spans) / 2
		first, err := c.read(ctx, spans[:half])
		if err != nil {
			return nil, err
		}
		second, err := c.read(ctx, spans[half:])
		return append(first, second...), err
	case isTooLong(err):
		page, err := c.readInParts(ctx, spans[0])
		return []keyPage{page}, err
	case err != nil:
		return nil, err
	}
	pages := make([]keyPage, len(spans))
	for i, r := range resp.Responses {
		pages[i] = newKeyPage(r.GetResponseRange().Kvs, r.GetResponseRange().More && !spans[i].last)
		pages[i].kvs = slices.DeleteFunc(pages[i].kvs, func(kv *mvccpb.KeyValue) bool { return len(kv.Value) > maxRecordBytes })
	}
	return pages, nil
}

func (c *Client) readInParts(ctx context.Context, s keySpan) (keyPage, error) {
	resp, err := c.Do(ctx, s.op(clientv3.WithKeysOnly()))
	if err != nil {
		return keyPage{}, err
	}
	page := newKeyPage(resp.Get().Kvs, resp.Get().More && !s.last)
	page.kvs, err = readShort(ctx, c.Client, page.kvs)
	return page, err
}

func newKeyPage(kvs []*mvccpb.KeyValue, more bool) keyPage {
	page := keyPage{kvs: kvs, more: more && len(kvs) > 0}
	if len(kvs) > 0 {
		page.last = string(kvs[len(kvs)-1].Key)
	}
	return page
}

// Order is the place of the record of t in the order in which etcd got them: by the clocks
// of those who wrote them it may look otherwise.
func (t Tenure) Order() int64 { return t.created }
