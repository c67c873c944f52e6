package membership

import (
	"context"
	"errors"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// A renewStream renews leases over one stream that stays open, which costs
// etcd no authentication each time. At most one request is under way: a stream
// that owes an answer is thrown away, so that a late answer is never taken for
// that to a later request. The next stream goes to the next endpoint.
//
// One goroutine owns it. Only client must be set.
type renewStream struct {
	client pb.LeaseClient
	stream pb.Lease_LeaseKeepAliveClient // nil: none is open
	cancel context.CancelFunc            // ends stream
}

// renew returns the TTL in seconds that the lease has again; 0 when etcd does
// not know it. ctx bounds this one request. While it is under way, meanwhile is
// called: what it asks of etcd comes back with the answer, so that an idle host
// wakes up for both at once.
func (r *renewStream) renew(ctx context.Context, lease clientv3.LeaseID, meanwhile func()) (ttl int64, err error) {
	var streamCtx context.Context
	if r.stream == nil {
		streamCtx, r.cancel = context.WithCancel(context.WithoutCancel(ctx))
	}
	inTime := context.AfterFunc(ctx, r.cancel)
	if r.stream == nil {
		r.stream, err = r.client.LeaseKeepAlive(streamCtx)
	}
	if err == nil {
		ttl, err = r.exchange(lease, meanwhile)
	}
	if !inTime() || err != nil {
		r.close()
	}
	if ctx.Err() != nil && status.Code(err) == codes.Canceled {
		err = ctx.Err() // and not what cancelling the stream made of it
	}
	return ttl, err
}

func (r *renewStream) exchange(lease clientv3.LeaseID, meanwhile func()) (ttl int64, err error) {
	err = r.stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(lease)})
	if err != nil && !errors.Is(err, io.EOF) { // EOF: Recv knows why
		return 0, err
	}
	meanwhile()
	resp, err := r.stream.Recv()
	if err != nil {
		return 0, err
	}
	return resp.TTL, nil
}

// close ends the open stream, if there is one.
func (r *renewStream) close() {
	if r.cancel != nil {
		r.cancel()
	}
	r.stream, r.cancel = nil, nil
}
