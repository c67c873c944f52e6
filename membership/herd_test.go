package membership

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// The table of docs/PERFORMANCE.md:
//
//	go test ./membership -run StartAtOnce -v -joins.hosts 100,1000 -joins.original
var (
	joinsHosts    = flag.String("joins.hosts", "40,130", "how many hosts start at once, on as many names")
	joinsOriginal = flag.Bool("joins.original", false, "measure the original algorithm, too")
)

// costs counts what one host asks of etcd for its claim, each attempt: renewals, which
// begin when it has one, read a single key and compare another.
type costs struct{ grants, reads, txns, failed, all atomic.Int64 }

func (r *costs) count(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	r.all.Add(1)
	switch method {
	case pb.Lease_LeaseGrant_FullMethodName:
		r.grants.Add(1)
	case pb.KV_Range_FullMethodName:
		if len(req.(*pb.RangeRequest).RangeEnd) > 0 {
			r.reads.Add(1)
		}
	case pb.KV_Txn_FullMethodName:
		if len(req.(*pb.TxnRequest).Success) > 0 {
			r.txns.Add(1)
		}
	}
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil {
		r.failed.Add(1)
	}
	return err
}

// A joined is how n hosts that started at once got their names.
type joined struct {
	took  time.Duration
	names map[string]int
	cost  []*costs // of each host
}

// joinAtOnce starts n hosts on an etcd of their own; join returns the name that
// it got.
func joinAtOnce(t *testing.T, n int, join func(t *testing.T, i int, c *etcd.Client) string) joined {
	server := devetcdtest.Start(t)
	j := joined{names: make(map[string]int), cost: make([]*costs, n)}
	clients := make([]*etcd.Client, n)
	for i := range clients {
		j.cost[i] = new(costs)
		c, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint()}}, grpc.WithChainUnaryInterceptor(devetcdtest.Unhurried, j.cost[i].count))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if _, err := c.Get(t.Context(), "connect"); err != nil {
			t.Fatal(err)
		}
		clients[i] = c
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	begin := time.Now()
	for i, c := range clients {
		wg.Go(func() {
			name := join(t, i, c)
			mu.Lock()
			defer mu.Unlock()
			j.names[name]++
			j.took = time.Since(begin)
		})
	}
	wg.Wait()
	return j
}

// most returns the most that one host asked of each kind, the sum of all, and how many
// requests an overloaded etcd answered with an error: who had to ask again may have held two
// names for a while, and then others found none.
func (j joined) most() (grants, reads, txns, all, failed int64) {
	for _, r := range j.cost {
		g, d, x := r.grants.Load(), r.reads.Load(), r.txns.Load()
		all += g + d + x
		grants, reads, txns = max(grants, g), max(reads, d), max(txns, x)
		failed += r.failed.Load()
	}
	return grants, reads, txns, all, failed
}

// check says whether each name was given once.
func (j joined) check(t *testing.T, names []string) {
	t.Helper()
	want := make(map[string]int, len(names))
	for _, name := range names {
		want[name] = 1
	}
	if !maps.Equal(j.names, want) {
		t.Errorf("names given, and how often: %v; want each of %d once", j.names, len(names))
	}
}

// As many hosts as there are names start at once: each gets one, and asks no
// more than a grant, one read of a long list, and a transaction for every 120
// names.
func TestManyStartAtOnce(t *testing.T) {
	if raceDetector {
		t.Skip("etcd is too slow with the race detector to answer so many in its own time")
	}
	var table bytes.Buffer
	fmt.Fprintf(&table, "| hosts | | requests | a host, at most | time |\n|--:|---|--:|--:|--:|\n")
	for word := range strings.SplitSeq(*joinsHosts, ",") {
		n, err := strconv.Atoi(word)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(word, func(t *testing.T) {
			cfg := testConfig(t, PrefixedNumerics("web-", n)...)
			holders := make([]running, n)
			ours := joinAtOnce(t, n, func(t *testing.T, i int, c *etcd.Client) string {
				h, err := NewHolder(c, cfg, nil, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Error(err)
					return ""
				}
				changed := h.Changed()
				holders[i] = run(t, h)
				for ; ; changed = h.Changed() {
					if claim, ok := h.Current(); ok {
						return claim.name
					}
					<-changed
				}
			})
			ours.check(t, cfg.Names)
			grants, reads, txns, all, failed := ours.most()
			wantReads, wantTxns := int64(0), int64((n+namesPerTxn-1)/namesPerTxn)
			if n > namesPerTxn {
				wantReads = 1
			}
			if failed > 0 {
				t.Logf("%d hosts: %d requests failed; this machine is too slow to tell what a host asks", n, failed)
			} else if grants != 1 || reads > wantReads || txns > wantTxns {
				t.Errorf("a host asked at most %d grants, %d reads, %d transactions; want 1, %d, %d", grants, reads, txns, wantReads, wantTxns)
			}
			fmt.Fprintf(&table, "| %d | prefixproxy | %d | %d | %.2f s |\n", n, all, grants+reads+txns, ours.took.Seconds())

			if !*joinsOriginal {
				return
			}
			original := joinAtOnce(t, n, func(t *testing.T, i int, c *etcd.Client) string { return joinOriginally(t, c, cfg.Names) })
			original.check(t, cfg.Names)
			grants, reads, txns, all, _ = original.most()
			fmt.Fprintf(&table, "| | one name after the other | %d | %d | %.2f s |\n", all, grants+reads+txns, original.took.Seconds())
		})
	}
	t.Logf("\n<!-- go test ./membership -run StartAtOnce -v -joins.hosts %s -joins.original -->\n\n%s\n%s/%s, %d processors, %s, an embedded etcd in the same process\n",
		*joinsHosts, table.String(), runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), runtime.Version())
}

// joinOriginally is the algorithm of the original library: a transaction for
// each name, in their order, until one is free.
func joinOriginally(t *testing.T, c *etcd.Client, names []string) string {
	lease, err := c.Grant(t.Context(), 600)
	if err != nil {
		t.Error(err)
		return ""
	}
	for _, name := range names {
		resp, err := c.Txn(t.Context()).
			If(clientv3.Compare(clientv3.CreateRevision(name), "=", 0)).
			Then(clientv3.OpPut(name, "homer", clientv3.WithLease(lease.ID))).
			Commit()
		if err != nil {
			t.Error(err)
			return ""
		}
		if resp.Succeeded {
			return name
		}
	}
	return ""
}

// Many wait, one name is freed: one gets it, the others say nothing and wait
// on, and do not all ask for it.
func TestManyWaitForOneName(t *testing.T) {
	const waiters = 200
	var cost costs
	var log syncBuffer
	c := newClient(t, sharedEtcd, cost.count)
	cfg := testConfig(t, "Denali", "MtLogan")
	first, second := start(t, c, cfg, nil), start(t, c, cfg, nil)
	first.held(t)
	second.held(t)
	waiting := make([]running, waiters)
	for i := range waiting {
		waiting[i] = startWith(t, c, cfg, nil, func(h *Holder) { h.log = slog.New(slog.NewTextHandler(&log, nil)) })
	}
	for _, r := range waiting {
		r.await(t, "no free name", func() bool { return r.State() == Waiting })
	}
	tries := func() int64 { return cost.grants.Load() + cost.reads.Load() + cost.txns.Load() }
	before := tries()

	freed, _ := first.Current()
	begin := time.Now()
	first.stop()
	got := awaitAny(t, waiting)
	took := time.Since(begin)
	claim, _ := got.Current()
	if claim.name != freed.name || claim.revision <= freed.revision {
		t.Errorf("the freed name: got %s at %d, want %s after %d", claim.name, claim.revision, freed.name, freed.revision)
	}
	herd := time.NewTimer(4 * herdSpread) // whoever else has asked for it has its answer
	<-herd.C
	for _, r := range waiting {
		if r.Holder != got.Holder {
			r.await(t, "that it waits on", func() bool { return r.State() == Waiting })
		}
	}
	// Who tries reads what is taken, and claims what is free; nobody tries twice, and most
	// see in time that they need not.
	spent := tries() - before
	for _, r := range waiting {
		r.stop()
	}
	if took > maxRenewEvery {
		t.Log("this machine is too slow to tell what they ask: some had to begin anew")
	} else if most := int64(2*waiters + 4); spent > most {
		t.Errorf("requests: got %d, want %d at most", spent, most)
	}
	t.Logf("taken after %v, for %d requests of %d hosts", took.Round(time.Millisecond), spent, waiters)
	if got := strings.Count(log.String(), `meanwhile="lines that need a name wait for some seconds`); got != waiters {
		t.Errorf("exhaustion was said %d times by %d hosts, want once by each:\n%s", got, waiters, log.String())
	}
}

// Who has no name to look for waits for what is freed from now on, and not for what etcd
// has compacted.
func TestWaitAfterACompaction(t *testing.T) {
	t.Parallel()
	c := newClient(t, devetcdtest.Start(t))
	cfg := testConfig(t, "Denali")
	s := storeOf(c, cfg)
	if _, err := s.claim(t.Context(), lease{}, asking{}); err != ErrNoFreeName {
		t.Fatal(err)
	}
	free := func() *clientv3.DeleteResponse {
		if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+"Denali", "homer"); err != nil {
			t.Fatal(err)
		}
		resp, err := c.Delete(t.Context(), pool.NamesKey(cfg.Pool)+"Denali")
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	if _, err := c.Compact(t.Context(), free().Header.Revision); err != nil {
		t.Fatal(err)
	}
	freed := make(chan error)
	go func() { freed <- s.awaitFree(t.Context()) }()
	for {
		select {
		case err := <-freed:
			if err != nil {
				t.Error(err)
			}
			return
		default:
			free()
		}
	}
}

// awaitAny waits until one of rs holds a name.
func awaitAny(t *testing.T, rs []running) running {
	t.Helper()
	first := make(chan running, len(rs))
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for _, r := range rs {
		go func() {
			for {
				changed := r.Changed()
				if _, ok := r.Current(); ok {
					first <- r
					return
				}
				select {
				case <-changed:
				case <-ctx.Done():
					return
				}
			}
		}()
	}
	select {
	case r := <-first:
		return r
	case <-ctx.Done():
		t.Fatal("nobody got the freed name")
		return running{}
	}
}

// A syncBuffer may be written to by many.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// What waits for a free name is told of those that were freed and taken again.
func TestNoteFree(t *testing.T) {
	s := &store{cfg: DefaultConfig()}
	event := func(typ string, name string) *clientv3.Event {
		ev := &clientv3.Event{Type: clientv3.EventTypePut}
		if typ == "delete" {
			ev.Type = clientv3.EventTypeDelete
		}
		ev.Kv = &mvccpb.KeyValue{Key: []byte(pool.NamesKey("default") + name)}
		return ev
	}
	free := make(map[string]bool)
	s.noteFree(free, []*clientv3.Event{
		event("delete", "Denali"), event("delete", "MtLogan"), event("delete", "not of the list"), event("put", "Denali"),
	})
	if got := slices.Sorted(maps.Keys(free)); !slices.Equal(got, []string{"MtLogan"}) {
		t.Errorf("free: got %q, want MtLogan", got)
	}
}
