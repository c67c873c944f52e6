package testbed

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership"
)

// recordForm is a time as records have it.
const recordForm = "2006-01-02T15:04:05.000Z"

// wanderer is an owner that fillPool lets have each of the names once, one after the other.
const wanderer = "web17.example.net"

// oldNames are names of fillPool that the list has lost three days ago. The first is held.
var oldNames = membership.PrefixedNumerics("old-", 12)

// fillPool writes the records of a busy pool into etcd, as hosts have left them in the
// last days: so many tenures a name, by clocks that are some seconds apart, each twelfth
// of which a crash has left without an end, and some things that are no records. But for
// each twelfth, the names are held, under one lease. The pool had other names before, and
// was called otherwise; who has not heard of the new list still waits there.
func fillPool(t testing.TB, endpoint, pool string, names []string, days, each int) {
	t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(devetcdtest.Patiently)}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	lease, err := client.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	now, span := time.Now(), time.Duration(days)*24*time.Hour
	var filling errgroup.Group
	filling.SetLimit(16)
	fill := func(pool, name string, n, last int, until time.Time, lasting clientv3.LeaseID) {
		filling.Go(func() error {
			f := filler{client: client, prefix: "/prefixproxy/" + pool + "/", r: rand.New(rand.NewPCG(1, uint64(n)))}
			f.fill(t.Context(), name, n, last, each, lasting, until, span)
			f.flush(t.Context())
			return f.err
		})
	}
	for n, name := range names {
		lasting := lease.ID
		if n%12 == 5 {
			lasting = 0
		}
		fill(pool, name, n, len(names), now, lasting)
	}
	for n, name := range oldNames {
		lasting := clientv3.LeaseID(0)
		until := now.Add(-3 * 24 * time.Hour)
		if n == 0 {
			lasting, until = lease.ID, now
		}
		fill(pool, name, len(names)+n, 0, until, lasting)
		fill(pool+"-old", names[n%len(names)], n, 0, until, lasting)
	}
	if err := filling.Wait(); err != nil {
		t.Fatal(err)
	}
}

// A filler writes the past of one name.
type filler struct {
	client *clientv3.Client
	prefix string
	r      *rand.Rand
	puts   []clientv3.Op
	err    error
}

// fill writes each tenures of the n-th name, the last of which is under lease if that is
// not 0. Of the first names wandering of them, one is the Wanderer's.
func (f *filler) fill(ctx context.Context, name string, n, wandering, each int, lease clientv3.LeaseID, now time.Time, span time.Duration) {
	held := lease != 0
	at := now.Add(-span + time.Duration(n)*time.Second)
	for i := range each {
		owner := fmt.Sprintf("app-%05x.example.net", f.r.IntN(1<<20))
		if wandering > 0 && i == n*each/wandering {
			owner = wanderer
		}
		next := at.Add(span / time.Duration(each))
		if i == each-1 {
			next = now
		}
		skew := time.Duration(f.r.IntN(4000)-2000) * time.Millisecond
		from := at.Add(skew - 3*time.Second).UTC()
		to := next.Add(skew - time.Duration(5+f.r.IntN(1800))*time.Second).UTC()
		if !to.After(from) {
			to = from.Add(time.Second)
		}
		id := clientv3.LeaseID(1 + n*each + i)
		lasts := held && i == each-1
		if lasts {
			id = lease
			f.flush(ctx) // a claim is a transaction of its own
			f.put(ctx, "names/"+name, owner, clientv3.WithLease(id))
		}
		record := fmt.Sprintf(`{"owner":%q,"lease":"%x","ttl":15,"term":7,"from":%q`, owner, id, from.Format(recordForm))
		if !lasts && (!held || f.r.IntN(12) > 0) {
			why := []string{"release", "release", "release", "expired", "deleted"}[f.r.IntN(5)]
			record += fmt.Sprintf(`,"to":%q,"ended":%q`, to.Format(recordForm), why)
		}
		f.put(ctx, fmt.Sprintf("tenures/%s/%013d-%x", name, from.UnixMilli(), id), record+"}")
		at = next
	}
	f.flush(ctx)
	f.put(ctx, "tenures/"+name+"/0000000000000-0", "no record")
}

func (f *filler) put(ctx context.Context, key, value string, opts ...clientv3.OpOption) {
	if f.puts = append(f.puts, clientv3.OpPut(f.prefix+key, value, opts...)); len(f.puts) == 120 {
		f.flush(ctx)
	}
}

func (f *filler) flush(ctx context.Context) {
	if f.err == nil && len(f.puts) > 0 {
		_, f.err = f.client.Txn(ctx).Then(f.puts...).Commit()
	}
	f.puts = f.puts[:0]
}
