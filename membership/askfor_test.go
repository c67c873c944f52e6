package membership

import (
	"context"
	"errors"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/devetcd/devetcdtest"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// askFor is pool.AskFor that gives up: a wish that ran out is waited for in vain.
func askFor(t *testing.T, c *etcd.Client, in, name string) (owner string, err error) {
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	return pool.AskFor(ctx, c, in, name)
}

// The holder of a name lets go of it when somebody asks for it, takes another,
// and stays away from it for one TTL. Its tenure ends by choice.
func TestAskFor(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t, "Denali", "MtLogan")
	h := start(t, c, cfg, newState(t, t.TempDir()))
	first := h.held(t)
	if owner, err := askFor(t, c, cfg.Pool, "Denali"); err != nil || owner != "homer" {
		t.Fatalf("got %q, %v; want homer", owner, err)
	}
	h.await(t, "another claim", func() bool { c, ok := h.Current(); return ok && c != first })
	if c, _ := h.Current(); c.name != "MtLogan" {
		t.Errorf("the name is %s, want MtLogan", c.name)
	}
	for loss, n := range h.Stats().Losses {
		if n != 0 {
			t.Errorf("%s counts %d, want none: it was no loss", loss, n)
		}
	}
	past, err := pool.TenuresOf(t.Context(), c, cfg.Pool, "Denali")
	if err != nil || len(past) != 1 || past[0].Ended != pool.Released {
		t.Errorf("who: got %+v (%v), want one that ended by release", past, err)
	}
	if _, err := askFor(t, c, cfg.Pool, "Denali"); !errors.Is(err, pool.ErrNotHeld) {
		t.Errorf("a free name: got %v, want %v", err, pool.ErrNotHeld)
	}
	if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+"Denali", "marge"); err != nil {
		t.Fatal(err)
	}
	if owner, err := askFor(t, c, cfg.Pool, "Denali"); owner != "marge" || !errors.Is(err, pool.ErrNoLease) {
		t.Errorf("a name that was put by hand: got %q, %v; want marge and %v", owner, err, pool.ErrNoLease)
	}
}

// Of a host that doesn't hear it is said that it still holds the name.
func TestAskForInVain(t *testing.T) {
	t.Parallel()
	c := newClient(t, sharedEtcd)
	cfg := testConfig(t, "Denali")
	if _, err := c.Put(t.Context(), pool.NamesKey(cfg.Pool)+"Denali", "marge", clientv3.WithLease(devetcdtest.NewLease(t, c.Client))); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if owner, err := pool.AskFor(ctx, c, cfg.Pool, "Denali"); owner != "marge" || !errors.Is(err, pool.ErrStillHeld) {
		t.Errorf("a host that does not hear: got %q, %v; want marge and %v", owner, err, pool.ErrStillHeld)
	}
}
