package membership

import (
	"context"
	"sync/atomic"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// ClientConfig returns the configuration of an etcd client as a Holder wants
// it; add Username, Password and TLS. clientv3.New then does not wait for etcd,
// not even with a user name, and the client comes back within some 2 s of an
// outage of any length; gRPC's own default is 120 s.
//
// Use it for one client: it remembers whether that client was made.
func ClientConfig(endpoints []string) clientv3.Config {
	reconnect := backoff.DefaultConfig
	reconnect.MaxDelay = 2 * time.Second
	return clientv3.Config{
		Endpoints:            endpoints,
		DialKeepAliveTime:    10 * time.Second, // gRPC takes no less; it also sets TCP_USER_TIMEOUT to the time-out
		DialKeepAliveTimeout: 3 * time.Second,
		BackoffWaitBetween:   100 * time.Millisecond,
		Logger:               zap.NewNop(), // errors are returned; its retries are no news
		DialOptions: []grpc.DialOption{
			grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 2 * time.Second}),
			grpc.WithChainUnaryInterceptor(deferLogin()),
		},
	}
}

// deferLogin answers the first login of a client, which clientv3.New would wait
// for, by "authentication is not enabled". The first request that wants a user
// then makes the client log in.
func deferLogin() grpc.UnaryClientInterceptor {
	var made atomic.Bool
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoker grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if method == pb.Auth_Authenticate_FullMethodName && made.CompareAndSwap(false, true) {
			return rpctypes.ErrGRPCAuthNotEnabled
		}
		return invoker(ctx, method, req, reply, cc, opts...)
	}
}
