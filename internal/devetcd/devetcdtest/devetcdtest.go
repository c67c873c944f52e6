// Package devetcdtest starts embedded etcd servers for tests. It stands apart
// from devetcd so that the program does not link package testing.
package devetcdtest

import (
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/sidebyside"
)

// Start starts a server that ends with the test.
func Start(t testing.TB) *devetcd.Server {
	t.Helper()
	s, err := devetcd.Start(sidebyside.MemoryDir(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// EnableUsers makes the users root and prefixproxy, with passwords r and p.
func EnableUsers(t testing.TB, c *clientv3.Client) {
	t.Helper()
	ctx := t.Context()
	for _, step := range []func() error{
		func() error { _, err := c.UserAdd(ctx, "root", "r"); return err },
		func() error { _, err := c.UserGrantRole(ctx, "root", "root"); return err },
		func() error { _, err := c.UserAdd(ctx, "prefixproxy", "p"); return err },
		func() error { _, err := c.RoleAdd(ctx, "prefixproxy"); return err },
		func() error {
			_, err := c.RoleGrantPermission(ctx, "prefixproxy", "/prefixproxy/", clientv3.GetPrefixRangeEnd("/prefixproxy/"), clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := c.UserGrantRole(ctx, "prefixproxy", "prefixproxy"); return err },
		func() error { _, err := c.AuthEnable(ctx); return err },
	} {
		if err := step(); err != nil {
			t.Fatal(err)
		}
	}
}

// NewLease grants a lease of a minute.
func NewLease(t testing.TB, c *clientv3.Client) clientv3.LeaseID {
	t.Helper()
	resp, err := c.Grant(t.Context(), 60)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ID
}
