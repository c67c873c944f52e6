package membership

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// Who may write to etcd may write anything there. Whatever it is, it costs no
// name and no command, and becomes nobody's.

// A key that somebody puts under our lease is not our name, be it of the list or
// not, and ours is found again beside it.
func TestKeysUnderOurLease(t *testing.T) {
	t.Parallel()
	for name, evil := range map[string]struct{ key, owner string }{
		"no name of the list": {"evil", "homer"},
		"a line":              {"Denali.x 666 1700000000\nhost", "homer"},
		"a name of the list":  {"MtLogan", "mallory"},
		"another prefix":      {"../../", "homer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newClient(t, sharedEtcd)
			cfg := testConfig(t, "Denali", "MtLogan", "KingPeak")
			h := start(t, c, cfg, nil)
			first := h.held(t)
			_, err := c.Txn(t.Context()).Then(
				clientv3.OpPut(pool.NamesKey(cfg.Pool)+evil.key, evil.owner, clientv3.WithLease(first.lease)),
				clientv3.OpDelete(first.key),
			).Commit()
			if err != nil {
				t.Fatal(err)
			}
			h.await(t, "another claim", func() bool { c, ok := h.Current(); return ok && c != first })
			if c, _ := h.Current(); !slices.Contains(cfg.Names, c.name) || c.lease == first.lease {
				t.Errorf("the name is %q under lease %x, want one of the list under another than %x", c.name, c.lease, first.lease)
			}
		})
	}
}

// A claim whose answer is lost is read back, and a key that somebody puts under
// its lease meanwhile is not taken for it.
func TestReadBackAmongForeignKeys(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	s := storeOf(c, cfg)
	under := lease{id: devetcdtest.NewLease(t, c.Client), ttl: time.Minute}
	put := func(name, owner string) {
		if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+name, owner, clientv3.WithLease(under.id)); err != nil {
			t.Fatal(err)
		}
	}
	put("Aaa", "homer")
	if got, err := s.claim(t.Context(), under, asking{names: s.cfg.Names, own: nil, from: time.Now()}); err != errNotOurs {
		t.Errorf("with a foreign key alone: got %+v, %v; want %v", got, err, errNotOurs)
	}
	put("Denali", "homer")
	if got, err := s.claim(t.Context(), under, asking{names: s.cfg.Names, own: nil, from: time.Now()}); err != nil || got.tenure.Name != "Denali" {
		t.Errorf("beside a foreign key: got %q, %v; want Denali", got.tenure.Name, err)
	}
	if _, err := c.Revoke(t.Context(), under.id); err != nil {
		t.Fatal(err)
	}
	if got, err := s.readBack(t.Context(), under, nil); err != errNotOurs {
		t.Errorf("when the lease is gone: got %+v, %v; want %v", got, err, errNotOurs)
	}
}

// Values that are too long, many of them, are left out, and what is a record is
// read all the same.
func TestLongValues(t *testing.T) {
	t.Parallel()
	server := devetcdtest.Start(t)
	c := newClient(t, server)
	cfg := testConfig(t)
	long := strings.Repeat("x", 1<<20)
	now := time.Now().Truncate(time.Millisecond)
	put := func(key, value string) {
		if _, err := c.Put(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 12 {
		put(pool.TenuresKey(cfg.Pool)+"Denali/"+pool.RecordID(now.Add(time.Duration(i-1000)*time.Minute), clientv3.LeaseID(i)), long)
		put(fmt.Sprintf("%sLong-%d", pool.NamesKey(cfg.Pool), i), long)
	}
	before := pool.Tenure{Name: "Denali", Owner: "marge", From: now.Add(-time.Hour), To: now.Add(-time.Minute), Ended: pool.Released}
	put(pool.TenuresKey(cfg.Pool)+"Denali/"+pool.RecordID(before.From, 1), before.Value())

	if _, err := c.Get(t.Context(), pool.TenuresKey(cfg.Pool), clientv3.WithPrefix()); !etcd.IsTooLong(err) {
		t.Errorf("an answer of 12 MiB: got %v, want that it is too long", err)
	}
	h := start(t, c, cfg, nil)
	claim := h.held(t)
	if claim.name != "Denali" {
		t.Errorf("the name is %s, want Denali", claim.name)
	}
	if name, ok := claim.NameAt(now.Add(-30 * time.Minute).Unix()); ok {
		t.Errorf("a second of the host before: got %s, want no name", name)
	}
	if held, err := look(t, c, cfg); err != nil || len(held) != 1 || held[0].Owner != "homer" {
		t.Errorf("list: got %v (%v), want Denali of homer", held, err)
	}
	past, err := pool.TenuresOf(t.Context(), c, cfg.Pool, "Denali")
	if err != nil || len(past) != 2 || past[1].Owner != "marge" {
		t.Errorf("who: got %v (%v), want homer, and marge before", past, err)
	}
	if past, err := pool.TenuresBy(t.Context(), c, cfg.Pool, "marge"); err != nil || len(past) != 1 {
		t.Errorf("history: got %v (%v), want one", past, err)
	}
}

// Nor is what is long read at each renewal, where a wish for our name would be.
func TestLongWish(t *testing.T) {
	t.Parallel()
	longest := 0
	measure := func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		err := invoke(ctx, method, req, reply, cc, opts...)
		longest = max(longest, proto.Size(reply.(proto.Message)))
		return err
	}
	c := newClient(t, devetcdtest.Start(t), measure)
	cfg := testConfig(t)
	s := storeOf(c, cfg)
	claim := &Claim{name: "Denali", lease: 1}
	wish := func(value string) bool {
		if _, err := c.Put(t.Context(), pool.ReleasedKey(cfg.Pool)+"Denali", value); err != nil {
			t.Fatal(err)
		}
		return s.isAsked(t.Context(), claim)
	}
	if wish(strings.Repeat("x", 1<<20)) || !wish("1") || wish("2") {
		t.Error("asked by another's wish, or not by ours")
	}
	if longest > 100 {
		t.Errorf("an answer had %d bytes", longest)
	}
}

// A host whose clock is ahead has records of the future. They take no second from
// anybody, and do not hide who came after it.
func TestRecordsOfTheFuture(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	now := time.Now()
	for _, ahead := range []time.Duration{time.Hour, 73 * 365 * 24 * time.Hour} {
		putRecord(t, c, cfg.Pool, pool.Tenure{Name: "Denali", Owner: "marge", From: now.Add(ahead), To: now.Add(ahead)})
	}
	putRecord(t, c, cfg.Pool, pool.Tenure{Name: "Denali", Owner: "bart", From: now.Add(-time.Hour), To: now.Add(time.Hour)})
	h := start(t, c, cfg, nil)
	claim := h.held(t)
	for _, second := range []int64{now.Unix(), now.Add(-2 * time.Hour).Unix(), now.Add(24 * time.Hour).Unix()} {
		if name, ok := claim.NameAt(second); !ok || name != "Denali" {
			t.Errorf("second %d: got %q %v, want Denali", second-now.Unix(), name, ok)
		}
	}
	held, err := look(t, c, cfg)
	if err != nil || len(held) != 1 || held[0].Since.IsZero() || held[0].Since.After(time.Now()) {
		t.Errorf("list: got %+v (%v), want Denali since just now", held, err)
	}
	past, err := pool.TenuresOf(t.Context(), c, cfg.Pool, "Denali")
	if err != nil || len(past) == 0 || !past[0].Lasts || past[0].Owner != "homer" {
		t.Errorf("who: got %+v (%v), want homer first", past, err)
	}
	for _, p := range past {
		if p.InFuture(time.Now()) {
			t.Errorf("who tells of the future: %+v", p)
		}
	}
}
