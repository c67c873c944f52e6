package pool

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

// A Glance is a pool as one request shows it.
type Glance struct {
	Held    map[string]Standing // by name
	Waiting []Waiter            // the one that waits longest first
	Past    []Past              // what was asked for, in that order
}

// An AskPast asks for those tenures of a name that began from From on and before Before;
// the zero times are no bounds. Without a Name it asks for the first name of which there
// are records behind that of After and before that of Until, in etcd's order (CompareNames);
// "" are no bounds.
type AskPast struct {
	Name         string
	From, Before time.Time
	Last         bool // only the last of them

	After, Until string
}

// A Past is some of a name's tenures, in the order in which etcd got them. Where there is
// More, they go on from Next.
type Past struct {
	Tenures []Tenure
	More    bool
	Next    time.Time

	Name string // that was asked for; "": there is none. It may be no name that a list has
}

// CompareNames compares names by the order in which their records lie in etcd.
func CompareNames(a, b string) int { return strings.Compare(a+"/", b+"/") }

// The bounds of a Glance. Etcd takes 128 operations at once.
const (
	AsksPerGlance  = 110
	tenuresPerAsk  = 100
	pagesPerGlance = 16
)

// Look returns a pool at a glance, with some of its past: at most AsksPerGlance asks. That takes one
// request for up to 1,000 names, and more where somebody has put values there that are too long. It
// tries until a member has answered.
func Look(ctx context.Context, c *etcd.Client, pool string, asks ...AskPast) (Glance, error) {
	return lookAt(ctx, c.Ask, pool, asks)
}

// LookAt is Look for callers that ask regularly: the member in use answers from its own data
// (serializable), and a failure does not make the client move on to another one.
func LookAt(ctx context.Context, c *etcd.Client, pool string, asks ...AskPast) (Glance, error) {
	g, err := lookAt(ctx, c.Do, pool, asks, clientv3.WithSerializable())
	if err != nil {
		return Glance{}, c.Trouble(err)
	}
	return g, nil
}

func lookAt(ctx context.Context, read Reader, pool string, asks []AskPast, opts ...clientv3.OpOption) (g Glance, err error) {
	spans := []span{under(NamesKey(pool)), under(WaitingKey(pool))}
	asks = asks[:min(len(asks), AsksPerGlance)]
	for _, ask := range asks {
		spans = append(spans, ask.span(pool))
	}
	pages, err := read.pages(ctx, spans, opts...)
	for i := 0; i < 2 && err == nil; i++ { // a long list
		for n := 1; pages[i].more && n < pagesPerGlance && err == nil; n++ {
			var next keyPage
			next, err = read.page(ctx, pages[i].rest, opts...)
			next.kvs = append(pages[i].kvs, next.kvs...)
			pages[i] = next
		}
	}
	if err != nil {
		return Glance{}, fmt.Errorf("look at pool %s: %w", pool, err)
	}
	g.Held = make(map[string]Standing)
	holds := make(map[clientv3.LeaseID]bool)
	for _, kv := range pages[0].kvs {
		if name := strings.TrimPrefix(string(kv.Key), NamesKey(pool)); IsName(name) {
			g.Held[name] = standingOf(kv)
			holds[clientv3.LeaseID(kv.Lease)] = true
		}
	}
	g.Waiting = waitersOf(pool, pages[1].kvs, holds)
	now := time.Now()
	for i, page := range pages[2:] {
		if asks[i].Name == "" {
			g.Past = append(g.Past, Past{Name: firstName(page, spans[2+i], pool)})
			continue
		}
		past := Past{Tenures: slices.DeleteFunc(ReadTenures(pool, page.kvs), func(t Tenure) bool { return t.InFuture(now) })}
		if page.more && !page.rest.last {
			past.Next, past.More = milliOf(page.rest.from)
		}
		g.Past = append(g.Past, past)
	}
	return g, nil
}

// firstName returns of which name the first record of a span is; "": there is none.
func firstName(page keyPage, s span, pool string) string {
	if page.rest.from == s.from {
		return ""
	}
	name, _, _ := strings.Cut(strings.TrimPrefix(page.rest.from, TenuresKey(pool)), "/")
	return name
}

func (a AskPast) span(pool string) span {
	if a.Name == "" {
		s := under(TenuresKey(pool))
		if s.limit = 1; a.After != "" {
			s.from += a.After + string('/'+1)
		}
		if a.Until != "" {
			s.end = TenuresKey(pool) + a.Until + "/"
		}
		return s
	}
	s := under(TenuresKey(pool) + a.Name + "/")
	all := s.from
	if !a.From.IsZero() {
		s.from = fmt.Sprintf("%s%013d", all, keyMilli(a.From))
	}
	if !a.Before.IsZero() {
		s.end = fmt.Sprintf("%s%013d", all, keyMilli(a.Before))
	}
	if s.limit, s.last = tenuresPerAsk, a.Last; a.Last {
		s.limit = 1
	}
	return s
}

// milliOf returns the time after that in the key of a record.
func milliOf(key string) (next time.Time, ok bool) {
	var milli int64
	n, err := fmt.Sscanf(key[strings.LastIndexByte(key, '/')+1:], "%013d-", &milli)
	return time.UnixMilli(milli + 1), n == 1 && err == nil
}
