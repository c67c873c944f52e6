package membership

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

var membersRecords = flag.Int("members.records", 20, "how many records each of 1,000 names has in TestManyNamesWithAPast")

// bytesRead counts what etcd answers, in bytes.
type bytesRead struct{ all, most, requests atomic.Int64 }

func (b *bytesRead) count(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	err := invoke(ctx, method, req, reply, cc, opts...)
	if m, ok := reply.(proto.Message); ok {
		n := int64(proto.Size(m))
		b.all.Add(n)
		b.requests.Add(1)
		for old := b.most.Load(); n > old && !b.most.CompareAndSwap(old, n); old = b.most.Load() {
		}
	}
	return err
}

// A full pool with a long past costs a bounded number of bytes and requests, and etcd no
// square of it.
func TestManyNamesWithAPast(t *testing.T) {
	t.Parallel()
	const names = 1000
	server, err := devetcd.StartWith(t.TempDir(), func(cfg *embed.Config) { cfg.QuotaBackendBytes = 4 << 30 })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var read bytesRead
	c := newClient(t, server, read.count)
	cfg := testConfig(t, PrefixedNumerics("web-", names)...)
	var puts []clientv3.Op
	flush := func() {
		if len(puts) == 0 {
			return
		}
		if _, err := c.Txn(t.Context()).Then(puts...).Commit(); err != nil {
			t.Fatal(err)
		}
		puts = puts[:0]
	}
	put := func(key, value string, opts ...clientv3.OpOption) {
		if puts = append(puts, clientv3.OpPut(key, value, opts...)); len(puts) == 120 {
			flush()
		}
	}
	now := time.Now()
	store := &store{cfg: cfg}
	for i, name := range cfg.Names {
		lease, err := c.Grant(t.Context(), 600)
		if err != nil {
			t.Fatal(err)
		}
		end := now.Add(-time.Duration(i) * time.Second)
		for n := *membersRecords; n > 0; n-- {
			from := end.Add(-time.Duration(n)*90*24*time.Hour/time.Duration(*membersRecords) - time.Duration(rand.N(1000))*time.Millisecond)
			r := Tenure{Name: name, Owner: fmt.Sprintf("host-%d-%d", i, n), Lease: clientv3.LeaseID(n), From: from, ttl: 15 * time.Second, id: recordID(from, clientv3.LeaseID(n))}.end(from.Add(time.Minute), released)
			put(store.recordKey(r), r.value())
		}
		flush()
		r := Tenure{Name: name, Owner: "host", Lease: lease.ID, From: end, ttl: 15 * time.Second, id: recordID(end, lease.ID)}
		put(store.recordKey(r), r.value())
		put(namesKey(cfg.Pool)+name, "host", clientv3.WithLease(lease.ID))
	}
	flush()
	read = bytesRead{}
	begin := time.Now()
	view, err := Look(t.Context(), c, cfg.Pool, cfg.Names)
	if err != nil || len(view.Held) != names || view.Held[names-1].Since.IsZero() {
		t.Fatalf("got %d held (%v), want %d with their times", len(view.Held), err, names)
	}
	t.Logf("look: %v, %d bytes in %d requests, at most %d", time.Since(begin).Round(time.Millisecond), read.all.Load(), read.requests.Load(), read.most.Load())
	if past, err := TenuresBy(t.Context(), c, cfg.Pool, "host"); err != nil || len(past) != names {
		t.Errorf("%d tenures that last (%v), want %d", len(past), err, names)
	}
	if n := read.most.Load(); n > etcd.MaxAnswerBytes/2 {
		t.Errorf("one answer had %d bytes, want half of the bound %d at most", n, etcd.MaxAnswerBytes)
	}
	if n := read.all.Load(); n > names*(perName+2)*300 {
		t.Errorf("%d bytes read, want 300 for each record of the last days at most", n)
	}
	if n := read.requests.Load(); n > names+2*names/namesPerRead+20 {
		t.Errorf("%d requests, want one a name and one for each %d names, twice", n, namesPerRead)
	}
	t.Logf("all: %v, %d bytes in %d requests, at most %d", time.Since(begin).Round(time.Millisecond), read.all.Load(), read.requests.Load(), read.most.Load())
}
