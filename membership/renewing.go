package membership

import (
	"context"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// errAsked is the error of a renewal that found the wish for our name.
var errAsked = errors.New("somebody asks us to let go of the name")

// isOurs says whether what stands at a key was put by us, under lease.
func (s *store) isOurs(kv *mvccpb.KeyValue, lease clientv3.LeaseID) bool {
	return clientv3.LeaseID(kv.Lease) == lease && string(kv.Value) == s.cfg.Owner
}

// renew renews the lease of c and looks whether the name is still ours. The error is
// errAsked when somebody asks us to let go of it.
//
// It reads the key even when the lease is gone, because a lost lease may be
// the first that is seen of lost data; and what it reads counts even when the
// renewal fails.
func (s *store) renew(ctx context.Context, c *Claim) error {
	var resp *clientv3.GetResponse
	var readErr error
	ttl, err := s.stream.renew(ctx, c.lease, func() { resp, readErr = s.client.Get(ctx, c.key) })
	if readErr == nil && resp != nil {
		readErr = s.stillOurs(ctx, c, resp, err == nil && ttl <= 0)
	}
	if _, lost := errors.AsType[Loss](readErr); lost {
		return readErr
	}
	if err != nil {
		return fmt.Errorf("renew the lease of %s: %w", c.name, rpctypes.Error(err))
	}
	if readErr != nil {
		return fmt.Errorf("read who holds %s: %w", c.name, readErr)
	}
	if s.isAsked(ctx, c) {
		return errAsked
	}
	return nil
}

// isAsked says whether somebody asks us to let go of c. The member compares, by what it
// knows itself: that costs the others nothing, and us no more than the answer, whatever
// stands there.
func (s *store) isAsked(ctx context.Context, c *Claim) bool {
	resp, err := s.client.Txn(ctx).
		If(clientv3.Compare(clientv3.Value(pool.ReleasedKey(s.cfg.Pool)+c.name), "=", pool.LeaseHex(c.lease))).
		Commit()
	return err == nil && resp.Succeeded
}

// stillOurs says what has become of c, by what stands at its key; expired says
// that its lease is gone.
func (s *store) stillOurs(ctx context.Context, c *Claim, resp *clientv3.GetResponse, expired bool) error {
	if err := s.saw(ctx, resp.Header); err != nil {
		return err
	}
	switch {
	case len(resp.Kvs) > 0 && resp.Kvs[0].CreateRevision < c.revision: // it was gone before we claimed
		return DataLoss
	case expired:
		return Expired
	case len(resp.Kvs) == 0:
		return Deleted
	case resp.Kvs[0].CreateRevision != c.revision:
		return Lost
	case !s.isOurs(resp.Kvs[0], c.lease):
		return Overwritten
	}
	return nil
}

// stopRenewing ends what renew and stay keep open from one call to the next.
func (s *store) stopRenewing() { s.stream.close() }

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
