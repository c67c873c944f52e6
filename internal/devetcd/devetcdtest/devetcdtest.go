// Package devetcdtest starts embedded etcd servers for tests. It stands apart
// from devetcd so that the program does not link package testing.
package devetcdtest

import (
	"context"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/prefixproxy/prefixproxy/internal/devetcd"
	"github.com/prefixproxy/prefixproxy/internal/retry"
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

// Patiently is an interceptor that makes a request without a deadline, as tests do, again and again
// until etcd has answered: a busy machine may need half a minute for it.
func Patiently(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	for {
		err := invoke(ctx, method, req, reply, cc, opts...)
		if _, has := ctx.Deadline(); has || status.Code(err) != codes.Unavailable || !retry.Sleep(ctx, 50*time.Millisecond) {
			return err
		}
	}
}

// Unhurried is Patiently, and takes the deadline off a request that has one: to whoever asks so,
// etcd is never late. It must not be stopped.
func Unhurried(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return Patiently(context.WithoutCancel(ctx), method, req, reply, cc, invoke, opts...)
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

// NewLease grants a lease that outlives the test.
func NewLease(t testing.TB, c *clientv3.Client) clientv3.LeaseID {
	t.Helper()
	resp, err := c.Grant(t.Context(), 3600)
	if err != nil {
		t.Fatal(err)
	}
	return resp.ID
}
