package membership

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// recordsOf returns the records of name, in the order of time.
func recordsOf(t *testing.T, c *etcd.Client, in, name string) []*mvccpb.KeyValue {
	t.Helper()
	resp, err := c.Get(t.Context(), pool.TenuresKey(in)+name+"/", clientv3.WithPrefix())
	if err != nil {
		t.Fatal(err)
	}
	return resp.Kvs
}

// awaitEnded waits until the n-th record of name has an end, and returns it.
func awaitEnded(t *testing.T, c *etcd.Client, in, name string, n int) pool.Tenure {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	changed := c.Watch(ctx, pool.TenuresKey(in)+name+"/", clientv3.WithPrefix())
	for ; ctx.Err() == nil; <-changed {
		ts := pool.ReadTenures(in, recordsOf(t, c, in, name))
		if len(ts) > n && !ts[n].Open() {
			return ts[n]
		}
	}
	t.Fatalf("record %d of %s got no end", n, name)
	return pool.Tenure{}
}

// putRecord writes the record of a tenure of another host.
func putRecord(t *testing.T, c *etcd.Client, in string, r pool.Tenure) {
	t.Helper()
	r.Owner, r.Lease = cmp.Or(r.Owner, "marge"), 4711
	key := pool.TenuresKey(in) + r.Name + "/" + pool.RecordID(r.From, r.Lease)
	if _, err := c.Put(t.Context(), key, r.Value()); err != nil {
		t.Fatal(err)
	}
}

// termOf returns the term of etcd's leader.
func termOf(t *testing.T, c *etcd.Client) uint64 {
	t.Helper()
	resp, err := c.Get(t.Context(), "/")
	if err != nil {
		t.Fatal(err)
	}
	return resp.Header.RaftTerm
}

// The record as others read it.
func TestRecordIsWrittenWithTheClaimAndEndedWithTheRelease(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	before := time.Now()
	h := start(t, c, cfg, nil)
	claim := h.held(t)

	check := func(when string, want map[string]string) {
		t.Helper()
		kvs := recordsOf(t, c, cfg.Pool, "Denali")
		if len(kvs) != 1 {
			t.Fatalf("records %s: got %v, want one", when, kvs)
		}
		got := map[string]string{}
		var values map[string]any
		if err := json.Unmarshal(kvs[0].Value, &values); err != nil {
			t.Fatal(err)
		}
		for key, value := range values {
			got[key] = fmt.Sprint(value)
		}
		from, err := time.Parse("2006-01-02T15:04:05.000Z", got["from"])
		if err != nil || from.Before(before.Truncate(time.Millisecond)) || from.After(time.Now()) {
			t.Errorf("%s from %q, want the time of the claim in UTC with milliseconds", when, got["from"])
		}
		if want := fmt.Sprintf("/prefixproxy/%s/tenures/Denali/%013d-%x", cfg.Pool, from.UnixMilli(), int64(claim.lease)); string(kvs[0].Key) != want {
			t.Errorf("key %s: got %q, want %q", when, kvs[0].Key, want)
		}
		if kvs[0].Lease != 0 {
			t.Errorf("the record is under lease %x, and would go with it", kvs[0].Lease)
		}
		delete(got, "from")
		if to, there := got["to"]; there {
			if end, err := time.Parse("2006-01-02T15:04:05.000Z", to); err != nil || end.Before(from) || end.After(time.Now()) {
				t.Errorf("%s to %q, want the time of the release", when, to)
			}
			got["to"] = "then"
		}
		want["owner"], want["lease"] = "homer", fmt.Sprintf("%x", int64(claim.lease))
		want["ttl"], want["term"] = fmt.Sprint(cfg.TTL.Seconds()), fmt.Sprint(termOf(t, c))
		if !maps.Equal(got, want) {
			t.Errorf("record %s: got %v, want %v", when, got, want)
		}
	}
	check("while it lasts", map[string]string{})

	// Name and record change as one: one revision has both.
	watch := c.Watch(t.Context(), "/prefixproxy/"+cfg.Pool+"/", clientv3.WithPrefix(), clientv3.WithRev(claim.revision+1))
	h.stop()
	var events []string
	for _, ev := range (<-watch).Events {
		events = append(events, fmt.Sprint(ev.Type, " ", strings.Split(string(ev.Kv.Key), "/")[3], " ", ev.Kv.ModRevision-claim.revision))
	}
	slices.Sort(events)
	if len(events) != 2 || !strings.HasPrefix(events[0], "DELETE names") || !strings.HasPrefix(events[1], "PUT tenures") ||
		events[0][len("DELETE names"):] != events[1][len("PUT tenures"):] {
		t.Errorf("the release: got %q, want the name's deletion and the record's end at one revision", events)
	}
	check("after the release", map[string]string{"to": "then", "ended": "release"})
}

// Who loses a name records why.
func TestRecordTellsTheLoss(t *testing.T) {
	t.Parallel()
	for want, take := range map[Loss]func(c *etcd.Client, held *Claim) error{
		Deleted: func(c *etcd.Client, held *Claim) error {
			_, err := c.Delete(context.Background(), held.key)
			return err
		},
		Overwritten: func(c *etcd.Client, held *Claim) error {
			_, err := c.Put(context.Background(), held.key, "marge")
			return err
		},
		Expired: func(c *etcd.Client, held *Claim) error {
			_, err := c.Revoke(context.Background(), held.lease)
			return err
		},
	} {
		t.Run(string(want), func(t *testing.T) {
			t.Parallel()
			c := newClient(t, sharedEtcd)
			cfg := testConfig(t, "Denali", "MtLogan")
			client, between := betweenRenewals(t, sharedEtcd)
			h := start(t, client, cfg, nil)
			held := h.held(t)
			if err := between(func() error { return take(c, held) }); err != nil {
				t.Fatal(err)
			}
			if got := awaitEnded(t, c, cfg.Pool, "Denali", 0); got.Ended != string(want) {
				t.Errorf("ended: got %s, want %s", got.Ended, want)
			}
		})
	}
}

// What a crash left without an end, the next holder ends: a while after its
// claim, when the one before would have done so.
func TestSuccessorEndsTheRecordOfACrash(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	cfg.OnStop = Keep // what etcd sees of a crash
	crashed := start(t, c, cfg, nil)
	claim := crashed.held(t)
	crashed.stop()
	if _, err := c.Revoke(t.Context(), claim.lease); err != nil {
		t.Fatal(err)
	}
	start(t, c, cfg, nil).held(t)
	got := awaitEnded(t, c, cfg.Pool, "Denali", 0)
	next := pool.ReadTenures(cfg.Pool, recordsOf(t, c, cfg.Pool, "Denali"))[1]
	if got.Ended != "expired" || !got.To.Equal(next.From) || !next.Open() {
		t.Errorf("ended: got %s at %v, want expired at %v, when the next one began", got.Ended, got.To, next.From)
	}
}

// The tenure of a claim that a restart takes over goes on; that of a claim
// which a copied state directory takes over does not.
func TestTenureOfATakeOver(t *testing.T) {
	t.Parallel()
	for _, copied := range []bool{false, true} {
		t.Run(fmt.Sprintf("copied %v", copied), func(t *testing.T) {
			t.Parallel()
			c := newClient(t, sharedEtcd)
			cfg := testConfig(t)
			cfg.Pool = strings.ReplaceAll(cfg.Pool, "=", "-")
			cfg.OnStop = Keep
			dir := t.TempDir()
			state := newState(t, dir)
			first := start(t, c, cfg, state)
			was := first.held(t).Tenure()
			first.stop()
			state.Close()
			if copied {
				to := t.TempDir()
				if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				dir = to
			}

			cfg.OnStop = Release
			second := start(t, c, cfg, newState(t, dir))
			second.await(t, "a claim", func() bool { claim, _ := second.Current(); return claim != nil })
			ts := pool.ReadTenures(cfg.Pool, recordsOf(t, c, cfg.Pool, "Denali"))
			claim, _ := second.Current()
			if want := map[bool]int{false: 1, true: 2}[copied]; len(ts) != want || ts[want-1].Lease != claim.lease {
				t.Fatalf("records: got %+v, want %d, the last one under lease %x", ts, want, claim.lease)
			}
			list, err := look(t, c, cfg)
			if err != nil || len(list) != 1 || !list[0].Since.Equal(ts[len(ts)-1].From) {
				t.Errorf("held: got %+v (%v), want Denali since %v", list, err, ts[len(ts)-1].From)
			}
			if goesOn := claim.Tenure() == was; goesOn == copied {
				t.Errorf("tenure: got %q after %q", claim.Tenure(), was)
			}
			then := ts[0].From.Unix()
			if _, ok := claim.NameAt(then); ok == copied {
				t.Errorf("a line of the first one's time has a name: %v, want %v", ok, !copied)
			}
			second.heldLater(t) // and so released
			second.stop()
			if got := awaitEnded(t, c, cfg.Pool, "Denali", len(ts)-1); got.Ended != pool.Released {
				t.Errorf("ended: got %s, want release", got.Ended)
			}
		})
	}
}

// A claim knows the recorded tenures of others, and our own from before a
// restart.
func TestClaimKnowsItsPast(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t, "Denali", "MtLogan")
	now := time.Now()
	hoursAgo := func(hours int) time.Time { return now.Add(-time.Duration(hours) * time.Hour).Truncate(time.Second) }
	putRecord(t, c, cfg.Pool, pool.Tenure{Name: "Denali", From: hoursAgo(20), To: hoursAgo(19), Ended: pool.Released})
	putRecord(t, c, cfg.Pool, pool.Tenure{Name: "Denali", From: hoursAgo(10), Term: termOf(t, c)}) // it crashed, and Denali was free since

	var clock atomic.Int64 // Unix seconds
	clock.Store(now.Unix())
	dir := t.TempDir()
	begin := func(dir *state.Dir) running {
		return startWith(t, c, cfg, dir, func(h *Holder) { h.wall = func() time.Time { return time.Unix(clock.Load(), 0) } })
	}
	state := newState(t, dir)
	first := begin(state)
	claim := first.held(t)
	for hours, want := range map[int]string{21: "Denali", 20: "", 19: "", 18: "", 10: "", 1: "", -1: "Denali"} {
		if got, _ := claim.NameAt(hoursAgo(hours).Unix()); got != want {
			t.Errorf("%d hours ago: got %q, want %q", hours, got, want)
		}
	}
	if got := claim.Floor(); got != now.Unix() {
		t.Errorf("floor: got %d, want the second of the claim, %d", got, now.Unix())
	}
	clock.Add(100)
	first.stop()
	state.Close()

	// Another host has Denali now: the restart gets MtLogan, and its lines of
	// before are Denali's all the same.
	if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+"Denali", "marge"); err != nil {
		t.Fatal(err)
	}
	clock.Add(100)
	claim = begin(newState(t, dir)).held(t)
	for after, want := range map[int64]string{-1: "MtLogan", 0: "Denali", 100: "Denali", 101: "MtLogan", 200: "MtLogan"} {
		if got, ok := claim.NameAt(now.Unix() + after); claim.name != "MtLogan" || got != want || !ok {
			t.Errorf("claim on %s, %d s after the first one: got %q, %v; want %q", claim.name, after, got, ok, want)
		}
	}
}

// A process that was killed left its tenure open in its directory: it ended
// when somebody else claimed the name.
func TestOwnTenureAfterACrash(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t, "Denali", "MtLogan")
	cfg.OnStop = Keep
	dir := t.TempDir()
	state := newState(t, dir)
	first := start(t, c, cfg, state)
	claim := first.held(t)
	first.stop()
	state.Close()
	if _, err := c.Revoke(t.Context(), claim.lease); err != nil {
		t.Fatal(err)
	}
	ts := pool.ReadTenures(cfg.Pool, recordsOf(t, c, cfg.Pool, "Denali"))
	crashed := ts[0].From
	putRecord(t, c, cfg.Pool, pool.Tenure{Name: "Denali", From: crashed.Add(time.Hour)})
	if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+"Denali", "marge"); err != nil {
		t.Fatal(err)
	}

	second := startWith(t, c, cfg, newState(t, dir), func(h *Holder) {
		h.wall = func() time.Time { return crashed.Add(2 * time.Hour) }
	}).held(t)
	for after, want := range map[time.Duration]string{-time.Hour: "MtLogan", time.Minute: "Denali", 59 * time.Minute: "Denali", 61 * time.Minute: "MtLogan"} {
		if got, ok := second.NameAt(crashed.Add(after).Unix()); got != want || !ok {
			t.Errorf("%v after the claim before the crash: got %q, %v; want %q", after, got, ok, want)
		}
	}
}

func TestPrune(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	day := 24 * time.Hour
	now := time.Now()
	of := func(in string, now time.Time, owners ...string) { // tenures of a minute
		for i, owner := range owners {
			from := now.Add(time.Duration(i-len(owners)) * time.Minute)
			putRecord(t, c, in, pool.Tenure{Name: "Denali", Owner: owner, From: from, To: from.Add(time.Minute)})
		}
	}
	for _, test := range []struct {
		name  string
		put   func(in string)
		ahead time.Duration // of the others' clocks
		want  int           // records left, with that of the claim
	}{
		{"ended more than 90 days ago", func(in string) {
			putRecord(t, c, in, pool.Tenure{Name: "Denali", From: now.Add(-200 * day), To: now.Add(-150 * day)})
			putRecord(t, c, in, pool.Tenure{Name: "Denali", From: now.Add(-120 * day), To: now.Add(-100 * day)})
			of(in, now, "marge", "bart")
		}, 0, 3},
		{"only one other host was there since", func(in string) {
			putRecord(t, c, in, pool.Tenure{Name: "Denali", From: now.Add(-200 * day), To: now.Add(-150 * day)})
			of(in, now, "marge", "marge")
		}, 0, 4},
		{"our clock is 100 days ahead", func(in string) {
			for range 50 {
				of(in, now, "marge")
				now = now.Add(time.Second)
			}
			of(in, now.Add(time.Second), "bart")
		}, 100 * day, 52},
		{"began more than 90 days ago", func(in string) {
			putRecord(t, c, in, pool.Tenure{Name: "Denali", From: now.Add(-200 * day), To: now.Add(-150 * day)})
			putRecord(t, c, in, pool.Tenure{Name: "Denali", From: now.Add(-120 * day), To: now.Add(-80 * day)})
			of(in, now, "marge", "bart")
		}, 0, 4},
		{"of another name", func(in string) {
			putRecord(t, c, in, pool.Tenure{Name: "Denali2", From: now.Add(-200 * day), To: now.Add(-150 * day)})
			putRecord(t, c, in, pool.Tenure{Name: "Denali", From: now.Add(-1 * day), To: now})
		}, 0, 2},
		{"more than 1000", func(in string) {
			ops := make([]clientv3.Op, 0, 100)
			for i := range 1100 {
				r := pool.Tenure{Name: "Denali", Owner: "marge", From: now.Add(time.Duration(i-1100) * time.Minute)}
				r = r.End(r.From.Add(time.Second), pool.Released)
				ops = append(ops, clientv3.OpPut(pool.TenuresKey(in)+"Denali/"+pool.RecordID(r.From, 4711), r.Value()))
				if len(ops) == cap(ops) {
					if _, err := c.Txn(t.Context()).Then(ops...).Commit(); err != nil {
						t.Fatal(err)
					}
					ops = ops[:0]
				}
			}
		}, 0, 1000},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := testConfig(t)
			test.put(cfg.Pool)
			s := storeOf(c, cfg)
			h := newHolder(s, nil, boottime, testLog(t))
			h.wall = func() time.Time { return now.Add(test.ahead) }
			h.lease = &lease{id: devetcdtest.NewLease(t, c.Client)}
			got, err := s.claim(t.Context(), *h.lease, asking{names: s.cfg.Names, own: nil, from: h.wall()})
			if err != nil {
				t.Fatal(err)
			}
			h.tidy(t.Context(), h.tenancyOf(t.Context(), got, h.wall()))
			h.records.all.Wait()
			kvs := recordsOf(t, c, cfg.Pool, "Denali")
			if len(kvs) != test.want {
				t.Errorf("records: got %d, want %d", len(kvs), test.want)
			}
			if last := kvs[len(kvs)-1]; string(last.Key) != got.tenure.Key(cfg.Pool) {
				t.Errorf("the last record is %s, want our own", last.Key)
			}
		})
	}
}

// Where nothing is to be done, nothing is asked.
func TestTidyIsIdle(t *testing.T) {
	h := newHolder(&store{cfg: DefaultConfig()}, nil, boottime, testLog(t))
	h.tidy(t.Context(), &tenancy{Claim: &Claim{name: "Denali"}, claimed: claimed{tenure: tenure("Denali", 1000, 0), earlier: []pool.Tenure{
		{Name: "Denali", From: time.Now().Add(-time.Hour), To: time.Now(), Ended: pool.Released},
	}}})
	h.records.all.Wait() // there is no store to ask
}
