package pool

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
)

var membersRecords = flag.Int("members.records", 20, "how many records each of 1,000 names has in TestManyNamesWithAPast")

// testPool is the pool of the tests.
const testPool = "test"

func newClient(t *testing.T, s *devetcd.Server, interceptors ...grpc.UnaryClientInterceptor) *etcd.Client {
	t.Helper()
	c, err := etcd.New(etcd.Config{Endpoints: []string{s.Endpoint()}}, grpc.WithChainUnaryInterceptor(append(interceptors, devetcdtest.Unhurried)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// numbered returns web-1 to web-<count>.
func numbered(count int) []string {
	names := make([]string, count)
	for i := range names {
		names[i] = fmt.Sprint("web-", i+1)
	}
	return names
}

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
	server, err := devetcd.StartWith(sidebyside.MemoryDir(t), func(cfg *embed.Config) { cfg.QuotaBackendBytes = 4 << 30 })
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	var read bytesRead
	c := newClient(t, server, read.count)
	list := numbered(names)
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
	for i, name := range list {
		lease, err := c.Grant(t.Context(), 600)
		if err != nil {
			t.Fatal(err)
		}
		end := now.Add(-time.Duration(i) * time.Second)
		for n := *membersRecords; n > 0; n-- {
			from := end.Add(-time.Duration(n)*90*24*time.Hour/time.Duration(*membersRecords) - time.Duration(rand.N(1000))*time.Millisecond)
			r := Tenure{Name: name, Owner: fmt.Sprintf("host-%d-%d", i, n), Lease: clientv3.LeaseID(n), From: from, TTL: 15 * time.Second, ID: RecordID(from, clientv3.LeaseID(n))}.End(from.Add(time.Minute), Released)
			put(r.Key(testPool), r.Value())
		}
		flush()
		r := Tenure{Name: name, Owner: "host", Lease: lease.ID, From: end, TTL: 15 * time.Second, ID: RecordID(end, lease.ID)}
		put(r.Key(testPool), r.Value())
		put(NamesKey(testPool)+name, "host", clientv3.WithLease(lease.ID))
	}
	flush()
	read = bytesRead{}
	begin := time.Now()
	view, err := Look(t.Context(), c, testPool)
	if err != nil || len(view.Held) != names {
		t.Fatalf("got %d held (%v), want %d", len(view.Held), err, names)
	}
	leases := make([]clientv3.LeaseID, names)
	for i, name := range list {
		leases[i] = view.Held[name].Lease
	}
	if states, err := Leases(t.Context(), c, leases); err != nil || states[0].State != "held" || states[names-1].State != "held" {
		t.Errorf("got %+v (%v), want leases that hold", states, err)
	}
	t.Logf("look: %v, %d bytes in %d requests, at most %d", time.Since(begin).Round(time.Millisecond), read.all.Load(), read.requests.Load(), read.most.Load())
	if past, err := TenuresBy(t.Context(), c, testPool, "host"); err != nil || len(past) != names {
		t.Errorf("%d tenures that last (%v), want %d", len(past), err, names)
	}
	if n := read.most.Load(); n > etcd.MaxAnswerBytes/2 {
		t.Errorf("one answer had %d bytes, want half of the bound %d at most", n, etcd.MaxAnswerBytes)
	}
	if n := read.all.Load(); n > int64(names*(*membersRecords+5)*300) {
		t.Errorf("%d bytes read, want 300 for each record at most", n)
	}
	if n := read.requests.Load(); n > int64(names+names*(*membersRecords+1)/recordsPerRead+20) {
		t.Errorf("%d requests, want one a name and some more", n)
	}
	t.Logf("all: %v, %d bytes in %d requests, at most %d", time.Since(begin).Round(time.Millisecond), read.all.Load(), read.requests.Load(), read.most.Load())
}

// What others write to etcd is checked before it is shown.
func TestLook(t *testing.T) {
	t.Parallel()
	c := newClient(t, devetcdtest.Start(t))
	for name, owner := range map[string]string{"MtLogan": "marge", "Denali": "\x1b[2J", "Nowhere": "bart", "no name": "evil"} {
		if _, err := c.Put(t.Context(), NamesKey(testPool)+name, owner); err != nil {
			t.Fatal(err)
		}
	}
	v, err := Look(t.Context(), c, testPool)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range slices.Sorted(maps.Keys(v.Held)) {
		got = append(got, name+": "+v.Held[name].Owner)
	}
	if want := []string{`Denali: "\x1b[2J"`, "MtLogan: marge", "Nowhere: bart"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTenuresForPeople(t *testing.T) {
	t.Parallel()
	c := newClient(t, devetcdtest.Start(t))
	lease := devetcdtest.NewLease(t, c.Client)
	put := func(name string, from, to int64, lease clientv3.LeaseID, owner string) {
		r := Tenure{Name: name, Owner: owner, Lease: lease, From: time.Unix(from, 0)}
		if to != 0 {
			r = r.End(time.Unix(to, 0), Released)
		}
		if _, err := c.Put(t.Context(), TenuresKey(testPool)+name+"/"+RecordID(r.From, 1), r.Value()); err != nil {
			t.Fatal(err)
		}
	}
	put("Denali", 100, 200, 1, "marge")
	put("Denali", 300, 0, 2, "homer") // crashed
	put("Denali", 400, 0, lease, "marge")
	put("Denali2", 350, 0, 3, "homer")
	put("Foraker", 900, 0, 4, "lisa") // her clock was ahead
	put("Foraker", 500, 0, lease, "marge")
	if _, err := c.Put(t.Context(), TenuresKey(testPool)+"Denali/junk", "{}"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"Denali", "Foraker"} {
		if _, err := c.Put(t.Context(), NamesKey(testPool)+name, "marge", clientv3.WithLease(lease)); err != nil {
			t.Fatal(err)
		}
	}
	show := func(ts []Tenure, err error) (lines []string) {
		for _, r := range ts {
			to := int64(0)
			if !r.To.IsZero() {
				to = r.To.Unix()
			}
			lines = append(lines, fmt.Sprint(r.Name, " ", r.Owner, " ", r.From.Unix(), "-", to, " ", r.Ended, " ", r.Lasts))
		}
		if err != nil {
			t.Error(err)
		}
		return lines
	}
	if got, want := show(TenuresOf(t.Context(), c, testPool, "Denali")), []string{
		"Denali marge 400-0  true", "Denali homer 300-400 expired false", "Denali marge 100-200 release false",
	}; !slices.Equal(got, want) {
		t.Errorf("of Denali: got %q, want %q", got, want)
	}
	if got, want := show(TenuresOf(t.Context(), c, testPool, "Foraker")), []string{
		"Foraker marge 500-0  true", "Foraker lisa 900-0  false",
	}; !slices.Equal(got, want) {
		t.Errorf("of Foraker: got %q, want %q", got, want)
	}
	if got, want := show(TenuresBy(t.Context(), c, testPool, "homer")), []string{
		"Denali2 homer 350-0  false", "Denali homer 300-400 expired false",
	}; !slices.Equal(got, want) {
		t.Errorf("by homer: got %q, want %q", got, want)
	}
}

// What is asked about a host takes as many requests, however many names it has had: by a slow way to
// etcd, one for each would take longer than anybody waits.
func TestTenuresAround(t *testing.T) {
	t.Parallel()
	asked := 0
	c := newClient(t, devetcdtest.Start(t), func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		asked++
		return invoke(ctx, method, req, reply, cc, opts...)
	})
	const names = 60
	var ops []clientv3.Op
	for i, name := range numbered(names + 1) {
		owners := []string{"marge", "homer"}
		if i == names {
			owners = []string{"marge", "lisa"}
		}
		for turn, owner := range owners {
			from := time.Unix(int64(100*i+50*turn), 0)
			r := Tenure{Name: name, Owner: owner, From: from}.End(from.Add(40*time.Second), Released)
			ops = append(ops, clientv3.OpPut(TenuresKey(testPool)+name+"/"+RecordID(r.From, 1), r.Value()))
		}
	}
	if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
		t.Fatal(err)
	}
	asked = 0
	past, err := TenuresAround(t.Context(), c, testPool, "homer")
	if err != nil || asked > 5 {
		t.Errorf("asked %d times (%v), want 5 at most", asked, err)
	}
	if len(past) != 2*names {
		t.Fatalf("got %d tenures, want %d of homer's, and as many of others", len(past), names)
	}
	for i := range names { // the latest first
		if own, other := past[2*i], past[2*i+1]; own.Owner != "homer" || other.Owner != "marge" || other.Name != own.Name || own.From.Unix() != int64(100*(names-1-i)+50) {
			t.Errorf("the %d. tenure: got %+v after %+v", i, own, other)
		}
	}
}

// More records than one answer of etcd holds.
func TestTenuresByReadsOn(t *testing.T) {
	t.Parallel()
	c := newClient(t, devetcdtest.Start(t))
	for turn := range slices.Chunk(numbered(2*recordsPerRead+50), 100) {
		var ops []clientv3.Op
		for _, name := range turn {
			r := Tenure{Name: name, Owner: "homer", From: time.Unix(100, 0)}.End(time.Unix(200, 0), Released)
			ops = append(ops, clientv3.OpPut(TenuresKey(testPool)+name+"/"+RecordID(r.From, 1), r.Value()))
		}
		if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := TenuresBy(t.Context(), c, testPool, "homer"); err != nil || len(got) != 2*recordsPerRead+50 {
		t.Errorf("got %d tenures (%v), want %d", len(got), err, 2*recordsPerRead+50)
	}
}
