package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

func TestJoinUntilNoneIsFree(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	ids := PrefixedNumerics(t.Name()+"/", namesPerTxn+5) // more than one transaction holds
	lease := devetcdtest.NewLease(t, c.Client)
	for i := 0; i < len(ids); i++ {
		m, err := Join(c.Client, t.Context(), lease, "homer", ids)
		if err != nil {
			t.Fatal(err)
		}
		for m.Key != ids[i] { // unless the test's client asked again, since etcd was busy and had not answered
			if got, err := c.Get(t.Context(), ids[i]); err != nil || len(got.Kvs) == 0 || i+1 == len(ids) {
				t.Fatalf("got %v (%v), want %s", *m, err, ids[i])
			}
			i++
		}
		if m.Value != "homer" {
			t.Fatalf("got %v, want homer", *m)
		}
	}
	if m, err := Join(c.Client, t.Context(), lease, "homer", ids); err != ErrNoFreeName {
		t.Errorf("when all are claimed: got %v, %v; want ErrNoFreeName", m, err)
	}

	// A hole is found again, by both.
	hole := namesPerTxn + 2
	if _, err := c.Delete(t.Context(), ids[hole]); err != nil {
		t.Fatal(err)
	}
	members, err := Members(c.Client, ids)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range members {
		got = append(got, m.Key)
	}
	if want := slices.Delete(slices.Clone(ids), hole, hole+1); !slices.Equal(got, want) {
		t.Errorf("members: got %q, want %q", got, want)
	}
	if m, err := Join(c.Client, t.Context(), lease, "marge", ids); err != nil || m.Key != ids[hole] {
		t.Errorf("after a deletion: got %v, %v; want %s", m, err, ids[hole])
	}
}

// An error of etcd is an error, and never taken for "claimed".
func TestJoinErrors(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	const gone = clientv3.LeaseID(4711)
	if m, err := Join(c.Client, t.Context(), gone, "homer", PrefixedNumerics(t.Name()+"/", 3)); err == nil || errors.Is(err, ErrNoFreeName) {
		t.Errorf("with a lease that is not there: got %v, %v; want etcd's error", m, err)
	}
	if m, err := Join(c.Client, t.Context(), gone, "homer", nil); err != ErrNoFreeName {
		t.Errorf("without IDs: got %v, %v; want ErrNoFreeName", m, err)
	}
}

// longestLadder returns the rungs of a restart with a memory, and names more.
func longestLadder(s *store, names int) []rung {
	own := &state.Claim{Name: "web-1", Lease: 4711, Revision: 1, Record: "1795386417123-1267"}
	return append(s.rungsOf(own), ifAnyFree(PrefixedNumerics("web-", names), pool.NamesKey(s.cfg.Pool))...)
}

// etcd takes the longest ladder that a Holder sends, and not one more rung.
func TestLadderFitsIntoATransaction(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	s := storeOf(c, testConfig(t))
	for names, want := range map[int]error{
		namesPerTxn:     nil,
		namesPerTxn + 1: rpctypes.ErrTooManyOps,
	} {
		if _, err := s.climb(t.Context(), lease{id: devetcdtest.NewLease(t, c.Client)}, longestLadder(s, names), time.Now()); !errors.Is(err, want) {
			t.Errorf("%d names: got %v, want %v", names, err, want)
		}
	}
}

// same says whether two outcomes are of one claim.
func same(a, b claimed) bool {
	return a.revision == b.revision && a.takenOver == b.takenOver && a.tenure.ID == b.tenure.ID
}

// A lease has one name, however often its claim is sent.
func TestOneLeaseOneName(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	for _, names := range [][]string{Mountains()[:1], Mountains(), PrefixedNumerics("web-", 200)} {
		cfg := testConfig(t, names...)
		cfg.Pool += fmt.Sprint(len(names))
		s := storeOf(c, cfg)
		under := lease{id: devetcdtest.NewLease(t, c.Client)}
		first, err := s.claim(t.Context(), under, asking{names: s.cfg.Names, own: nil, from: time.Now()})
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names[1:] { // and all others are taken
			if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+name, "marge"); err != nil {
				t.Fatal(err)
			}
		}
		if again, err := s.claim(t.Context(), under, asking{names: s.cfg.Names, own: nil, from: time.Now()}); err != nil || !same(again, first) {
			t.Errorf("%d names, claimed again under one lease: got %+v, %v; want %+v", len(names), again, err, first)
		}
		if _, err := c.Revoke(t.Context(), under.id); err != nil {
			t.Fatal(err)
		}
		if got, err := s.claim(t.Context(), under, asking{names: s.cfg.Names, own: nil, from: time.Now()}); !errors.Is(err, Expired) {
			t.Errorf("%d names, claimed under a lease that is gone: got %+v, %v; want expired", len(names), got, err)
		}
	}
}

// Only the last proof takes a living claim over.
func TestTakeOverNeedsTheWholeProof(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	s := storeOf(c, testConfig(t))
	under := lease{id: devetcdtest.NewLease(t, c.Client)}
	first, err := s.claim(t.Context(), under, asking{names: s.cfg.Names, own: nil, from: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	for _, own := range []state.Claim{
		{Name: first.tenure.Name, Revision: first.revision, Lease: under.id + 1},
		{Name: first.tenure.Name, Revision: first.revision - 1, Lease: under.id},
		{Name: first.tenure.Name},
	} {
		if got, err := s.claim(t.Context(), lease{id: devetcdtest.NewLease(t, c.Client)}, asking{names: s.cfg.Names, own: &own, from: time.Now()}); err != nil || got.tenure.Name == first.tenure.Name || got.takenOver {
			t.Errorf("with %+v: got %+v, %v; want another name", own, got, err)
		}
	}
	own := state.Claim{Name: first.tenure.Name, Revision: first.revision, Lease: under.id, Record: first.tenure.ID, Here: true}
	got, err := s.claim(t.Context(), lease{id: devetcdtest.NewLease(t, c.Client)}, asking{names: s.cfg.Names, own: &own, from: time.Now()})
	if first.takenOver = true; err != nil || !same(got, first) {
		t.Errorf("with the proof: got %+v, %v; want %+v", got, err, first)
	}
}

// A name that is freed between the claim and the watch is not missed.
func TestAwaitFreeLooksBack(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	for _, names := range [][]string{{"Denali"}, PrefixedNumerics("web-", 150)} {
		cfg := testConfig(t, names...)
		cfg.Pool += fmt.Sprint(len(names))
		for _, name := range names {
			if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+name, "marge"); err != nil {
				t.Fatal(err)
			}
		}
		s := storeOf(c, cfg)
		if got, err := s.claim(t.Context(), lease{id: devetcdtest.NewLease(t, c.Client)}, asking{names: s.cfg.Names, own: nil, from: time.Now()}); err != ErrNoFreeName {
			t.Fatalf("all taken: got %+v, %v; want ErrNoFreeName", got, err)
		}
		if _, err := c.Delete(t.Context(), pool.NamesKey(cfg.Pool)+names[0]); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
		defer cancel()
		if err := s.awaitFree(ctx); err != nil {
			t.Errorf("%d names: got %v, want none", len(names), err)
		}
	}
}
