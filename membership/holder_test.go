package membership

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// race starts n holders at once and returns the names that they got, sorted by
// the revision of their claims.
func race(t *testing.T, cfg Config, n int) (holders []running, names []string) {
	clients := make([]*etcd.Client, 4)
	for i := range clients {
		clients[i] = newClient(t, sharedEtcd)
	}
	for i := range n {
		holders = append(holders, start(t, clients[i%len(clients)], cfg, nil))
	}
	claims := make([]*Claim, n)
	for i, h := range holders {
		claims[i] = h.held(t)
	}
	slices.SortFunc(claims, func(a, b *Claim) int { return int(a.revision - b.revision) })
	for _, c := range claims {
		names = append(names, c.name)
	}
	return holders, names
}

func TestRace(t *testing.T) {
	for _, test := range []struct {
		name  string
		names []string
	}{
		{"mountains", Mountains()[:40]},
		{"more than one transaction holds", PrefixedNumerics("web-", namesPerTxn+10)},
	} {
		t.Run(test.name, func(t *testing.T) {
			cfg := testConfig(t, test.names...)
			cfg.Pool = "race-" + test.names[0]
			holders, got := race(t, cfg, len(test.names))

			// Nobody released: the order of the claims is that of the list.
			if !slices.Equal(got, test.names) {
				t.Errorf("names in the order of their claims:\ngot  %q\nwant %q", got, test.names)
			}

			last := start(t, newClient(t, sharedEtcd), cfg, nil)
			last.await(t, "no free name", func() bool { return last.State() == Waiting })
			freed := holders[len(holders)/2]
			want, _ := freed.Current()
			freed.stop()
			if got := last.held(t); got.name != want.name || got.revision <= want.revision {
				t.Errorf("name of the one that waited: got %s at %d, want %s after %d", got.name, got.revision, want.name, want.revision)
			}
		})
	}
}

// Each way to take the name from a holder, and what it makes of it.
func TestLosses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		want Loss
		take func(c *etcd.Client, held *Claim) error
	}{
		{Deleted, func(c *etcd.Client, held *Claim) error {
			_, err := c.Delete(context.Background(), held.key)
			return err
		}},
		{Overwritten, func(c *etcd.Client, held *Claim) error {
			_, err := c.Put(context.Background(), held.key, "homer") // without our lease
			return err
		}},
		{Lost, func(c *etcd.Client, held *Claim) error {
			_, err := c.Delete(context.Background(), held.key)
			if err == nil {
				_, err = c.Put(context.Background(), held.key, "marge")
			}
			return err
		}},
		{Expired, func(c *etcd.Client, held *Claim) error {
			_, err := c.Revoke(context.Background(), held.lease)
			return err
		}},
	} {
		t.Run(string(test.want), func(t *testing.T) {
			t.Parallel()
			client, between := betweenRenewals(t, sharedEtcd)
			h := start(t, client, testConfig(t, "Denali", "MtLogan"), nil)
			old := h.held(t)
			changed := h.Changed()
			if err := between(func() error { return test.take(newClient(t, sharedEtcd), old) }); err != nil {
				t.Fatal(err)
			}
			<-changed
			if c, _ := h.Current(); c == old {
				t.Error("the lost claim is still the current one")
			}
			got := h.held(t)
			want := "Denali" // free again
			if test.want == Overwritten || test.want == Lost {
				want = "MtLogan" // never taken back by overwriting
			}
			if got.name != want || got == old || got.revision <= old.revision {
				t.Errorf("next claim: got %s at %d, want %s after %d", got.name, got.revision, want, old.revision)
			}
			stats := h.Stats()
			if stats.Claims != 2 || stats.Losses[test.want] != 1 {
				t.Errorf("stats: got %+v, want 2 claims and 1 loss %s", stats, test.want)
			}
		})
	}
}

func TestEtcdComesBack(t *testing.T) {
	t.Parallel()
	server := devetcdtest.Start(t)
	h := start(t, newHastyClient(t, server), testConfig(t), nil)
	c := h.held(t)

	server.Close()
	h.pass(c.Left())
	if got := h.State(); got != Suspended {
		t.Errorf("state past the horizon: got %s, want suspended", got)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := h.held(t); got != c {
		t.Errorf("after the outage: got another claim on %s, want the same", got.name)
	}
}

// An etcd that was wiped: its revision runs backwards.
func TestEtcdIsWiped(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	server, err := devetcd.Start(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client := newHastyClient(t, server)
	cfg := testConfig(t)
	l := listener{testLog(t).Handler(), "name not used yet, its last holder may still be there", "because", make(chan string, 1)}
	h := startWith(t, client, cfg, nil, func(h *Holder) { h.log = slog.New(l) })
	defer h.stop()
	old := h.held(t)

	server.Close()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	h.await(t, "another claim", func() bool { c, _ := h.Current(); return c != nil && c != old })
	if got := <-l.heard; got != whyDataLoss {
		t.Errorf("the new claim is not used because %q, want %q", got, whyDataLoss)
	}
	if got := h.Stats().Losses; got[DataLoss] != 1 {
		t.Errorf("losses: got %v, want 1 data_loss", got)
	}
	if resp, err := client.Get(t.Context(), pool.MarkerKey(cfg.Pool)); err != nil || len(resp.Kvs) != 1 || resp.Kvs[0].Lease == 0 {
		t.Errorf("marker: got %v, %v; want one under a lease", resp, err)
	}
	h.heldLater(t)
}

// What a person must mend is said as such, once, with the remedy.
func TestEtcdRefusesUs(t *testing.T) {
	client := newClientOf(t, etcd.Config{Endpoints: []string{"127.0.0.1:1"}})
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		o := outage{log: slog.New(slog.NewTextHandler(&log, nil)), causes: make(map[string]time.Time)}
		for i := range 7 {
			err := rpctypes.ErrPermissionDenied
			if i > 2 && i != 5 { // and back, as members that fail in different ways do
				err = rpctypes.ErrNoLeader
			}
			o.failed(client.Trouble(fmt.Errorf("claim a name: %w", err)), i)
			pass(t, time.Second)
		}
		o.over()
		o.over()
		for want, n := range map[string]int{
			`level=ERROR msg="etcd refuses us"`:              1,
			`readwrite on the prefix /prefixproxy/`:          1,
			`level=WARN msg="etcd unreachable"`:              1,
			`has no leader`:                                  1,
			`level=INFO msg="etcd reachable again" after=7s`: 1,
			"\n": 3,
		} {
			if got := strings.Count(log.String(), want); got != n {
				t.Errorf("%q is said %d times, want %d; log:\n%s", want, got, n, log.String())
			}
		}
	})
}

// Who starts us without etcd is told so within two seconds, once; who is used to it being
// there is not told before a request has failed.
func TestEtcdIsNotThere(t *testing.T) {
	for heard, want := range map[bool]int{false: 1, true: 0} {
		synctest.Test(t, func(t *testing.T) {
			var log bytes.Buffer
			start := time.Now()
			now := func() time.Duration { return time.Since(start) }
			r := requests{store: &store{route: noEtcd{}}, now: now, outage: outage{log: slog.New(slog.NewTextHandler(&log, nil)), causes: make(map[string]time.Time), heard: heard}}
			for range 3 {
				err := r.within(t.Context(), 5*time.Second, func(ctx context.Context) error {
					pass(t, 2*time.Second)
					if got := strings.Count(log.String(), `msg="etcd unreachable" cause="nothing is listening there" endpoint=http://etcd:2379`); got != want {
						t.Errorf("etcd heard before: %v: after 2 s it is said %d times, want %d: %s", heard, got, want, log.String())
					}
					<-ctx.Done()
					return ctx.Err()
				})
				r.outage.failed(err, 0)
			}
		})
	}
}

// noEtcd is a way to an etcd that cannot be reached.
type noEtcd struct{ route }

func (noEtcd) Failed(err error, _ time.Time) error { return err }
func (noEtcd) Unreachable() error {
	return &etcd.Trouble{What: "nothing is listening there", Endpoint: "http://etcd:2379"}
}

// A start without etcd waits for it.
func TestEtcdComesLate(t *testing.T) {
	t.Parallel()
	server := devetcdtest.Start(t)
	server.Close()
	h := start(t, newHastyClient(t, server), testConfig(t), nil)
	if c, ok := h.Current(); c != nil || ok || h.State() != Claiming {
		t.Errorf("without etcd: claim %v good %v state %s, want none and claiming", c, ok, h.State())
	}
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	if got := h.held(t).name; got != "Denali" {
		t.Errorf("name: got %s, want Denali", got)
	}
}

// The outcome of a claim that timed out is read back.
func TestUnknownOutcome(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		arrives bool // the first claim reaches etcd, and only its answer is lost
	}{
		{"answer lost", true},
		{"request lost", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var once sync.Once
			client := newClient(t, sharedEtcd, func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) (err error) {
				lose := false
				if method == pb.KV_Txn_FullMethodName {
					once.Do(func() { lose = true })
				}
				if !lose || test.arrives {
					err = invoke(ctx, method, req, reply, cc, opts...)
				}
				if lose {
					return status.Error(codes.DeadlineExceeded, "lost")
				}
				return err
			})
			cfg := testConfig(t)
			h := start(t, client, cfg, nil)
			c := h.held(t)
			list, err := look(t, client, cfg)
			if err != nil {
				t.Fatal(err)
			}
			if len(list) != 1 || list[0].Name != "Denali" || list[0].Owner != "homer" || list[0].Since.IsZero() || c.name != "Denali" {
				t.Errorf("claim %s, names held %v; want Denali of homer since now", c.name, list)
			}
			kv, err := client.Get(t.Context(), c.key)
			if err != nil {
				t.Fatal(err)
			}
			if got := kv.Kvs[0]; got.CreateRevision != c.revision || clientv3.LeaseID(got.Lease) != c.lease {
				t.Errorf("etcd has revision %d lease %x, the claim %d %x", got.CreateRevision, got.Lease, c.revision, c.lease)
			}
		})
	}
}

func TestRestartTriesItsOwnNameFirst(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		names []string
	}{
		{"one transaction", Mountains()},
		{"a long list", PrefixedNumerics("web-", 121)},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client := newClient(t, sharedEtcd)
			cfg := testConfig(t, test.names...)
			first := start(t, client, cfg, nil)
			first.held(t)
			dir := t.TempDir()
			state := newState(t, dir)
			second := start(t, client, cfg, state)
			want := second.held(t).name
			second.stop()
			first.stop()
			state.Close()

			if got := start(t, client, cfg, newState(t, dir)).held(t).name; got != want {
				t.Errorf("name after the restart: got %s, want %s", got, want)
			}
		})
	}
}

func TestKeepAndRestart(t *testing.T) {
	t.Parallel()
	client := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	cfg.OnStop = Keep
	dir := t.TempDir()
	state := newState(t, dir)
	h := start(t, client, cfg, state)
	old := h.held(t)
	h.stop()
	state.Close()
	if list, err := look(t, client, cfg); err != nil || len(list) != 1 {
		t.Fatalf("names held after a stop that keeps: got %v (%v), want Denali", list, err)
	}

	got := start(t, client, cfg, newState(t, dir)).held(t)
	if got.name != old.name || got.revision != old.revision {
		t.Errorf("took over %s at %d, want %s at %d", got.name, got.revision, old.name, old.revision)
	}
}

// A copy of a state directory is no proof: its claim is used one TTL later.
func TestCopiedState(t *testing.T) {
	t.Parallel()
	client := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	dir, copied := t.TempDir(), t.TempDir()
	original := start(t, client, cfg, newState(t, dir))
	original.held(t)
	for tick := time.NewTicker(10 * time.Millisecond); ; <-tick.C { // saved soon after it is in use
		if _, err := os.Stat(filepath.Join(dir, "claim.json")); err == nil {
			break
		}
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}

	client, between := betweenRenewals(t, sharedEtcd)
	h := start(t, client, cfg, newState(t, copied))
	h.await(t, "a claim", func() bool { c, _ := h.Current(); return c != nil })
	h.pass(cfg.TTL - 1)
	for range 2 { // the first may be of a renewal that began before
		between(func() error {
			if got := h.State(); got != Suspended {
				t.Errorf("state of the copy before one TTL has passed: got %s, want suspended", got)
			}
			return nil
		})
	}
	h.pass(1)
	if got := h.held(t).name; got != "Denali" {
		t.Errorf("name of the copy: got %s, want Denali", got)
	}
	original.await(t, "another name", func() bool { c, ok := original.Current(); return ok && c.name == "MtLogan" })
}

func TestOneOwnerTwoHolders(t *testing.T) {
	t.Parallel()
	client := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	a, b := start(t, client, cfg, nil).held(t), start(t, client, cfg, nil).held(t)
	if a.name == b.name {
		t.Errorf("both have %s, want two names of one owner", a.name)
	}
	if held, err := look(t, client, cfg); err != nil || len(held) != 2 || held[0].Owner != held[1].Owner {
		t.Errorf("got %+v (%v), want two names of one owner", held, err)
	}
}

func TestReleaseFreesAtOnce(t *testing.T) {
	t.Parallel()
	client := newClient(t, sharedEtcd)
	cfg := testConfig(t)
	h := start(t, client, cfg, nil)
	h.held(t)
	h.stop()
	if c, ok := h.Current(); c != nil || ok || h.State() != Released {
		t.Errorf("after the stop: claim %v good %v state %s, want none and released", c, ok, h.State())
	}
	list, err := look(t, client, cfg)
	if err != nil || len(list) != 0 {
		t.Errorf("names held after the stop: got %v (%v), want none", list, err)
	}
}

// etcd with users: the client is made while etcd is down, and logs in later.
func TestUsers(t *testing.T) {
	t.Parallel()
	server := devetcdtest.Start(t)
	devetcdtest.EnableUsers(t, newHastyClient(t, server).Client)
	server.Close()
	client := newUserClient(t, server, "prefixproxy", "p")
	h := start(t, client, testConfig(t), nil)
	defer h.stop()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	c := h.held(t)

	// After another restart etcd knows our token no more.
	server.Close()
	if err := server.Restart(); err != nil {
		t.Fatal(err)
	}
	h.pass(c.Left())
	if got := h.held(t); got != c {
		t.Errorf("after a restart of etcd: got another claim on %s, want the same", got.name)
	}
}

// Long lists take one read and no more transactions than they need.
func TestTurnsOfALongList(t *testing.T) {
	t.Parallel()
	client := newClient(t, sharedEtcd)
	cfg := testConfig(t, PrefixedNumerics("web-", 400)...)
	lease := devetcdtest.NewLease(t, client.Client)
	for _, name := range append(PrefixedNumerics("web-", 5), "web-7") {
		if _, err := client.Put(t.Context(), pool.NamesKey(cfg.Pool)+name, "marge", clientv3.WithLease(lease)); err != nil {
			t.Fatal(err)
		}
	}
	turns, err := storeOf(client, cfg).turns(t.Context(), 0, asking{names: cfg.Names})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, turn := range turns {
		got = append(got, fmt.Sprintf("%d from %s", len(turn), turn[0]))
	}
	if want := []string{"34 from web-6", "120 from web-41", "120 from web-161", "120 from web-281"}; !slices.Equal(got, want) {
		t.Errorf("turns: got %q, want %q", got, want)
	}
}
