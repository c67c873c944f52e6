package testbed

import (
	"context"
	"testing"

	"github.com/prefixproxy/prefixproxy/membership"
	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
	"github.com/prefixproxy/prefixproxy/membership/state"
)

// The etcd of the machine, which may be an old one, takes the longest
// transaction that there is: that of a restart, with 120 names, within its
// default limit.
func TestLongestClaimOnTheMachinesEtcd(t *testing.T) {
	t.Parallel()
	server := newEtcd(t)
	server.Start(t)
	client, err := etcd.New(etcd.Config{Endpoints: []string{server.Endpoint}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	dir, err := state.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cfg := membership.DefaultConfig()
	cfg.Names = membership.PrefixedNumerics("web-", 120)
	cfg.Owner = "homer"
	cfg.OnStop = membership.Keep

	for range 2 { // the second one takes over
		h, err := membership.NewHolder(client, cfg, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		changed := h.Changed()
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- h.Run(ctx) }()
		<-changed
		if c, ok := h.Current(); !ok || c.Name() != "web-1" {
			t.Errorf("claim: got %v, %v; want web-1", c, ok)
		}
		stop()
		<-ended
	}
	tenures, err := pool.TenuresOf(t.Context(), client, cfg.Pool, "web-1")
	if err != nil || len(tenures) != 1 || !tenures[0].Lasts {
		t.Errorf("tenures: got %+v (%v), want one that lasts", tenures, err)
	}
}
