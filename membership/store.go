package membership

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/prefixproxy/prefixproxy/membership/etcd"
	"github.com/prefixproxy/prefixproxy/membership/pool"
)

// A route is a store's way to one member after the other: a *etcd.Client.
type route interface {
	// Failed takes note of the error of a request that began at begun, and returns it
	// with its cause. The next request goes to another member where that may help.
	Failed(err error, begun time.Time) error

	// Unreachable returns why there is no connection; nil while there is one, or while
	// nobody knows yet.
	Unreachable() error

	// Version returns the version of the member in use.
	Version(ctx context.Context) (string, error)
}

// A store is what a Holder asks of etcd. The error of each call may be a Loss: what the call found
// out about the claim, or DataLoss, which any call may find out. Run's goroutine owns it; the methods
// that others may call say so.
type store struct {
	route
	client *clientv3.Client
	stream renewStream
	cfg    Config
	last   seen  // by the last linearizable answer
	looked int64 // the revision as of which the last claim began to look
}

// What an answer says about etcd.
type seen struct {
	cluster, member, term uint64
	revision              int64
}

func storeOf(c *etcd.Client, cfg Config) *store {
	return newStore(c.Client, c, pb.NewLeaseClient(c.ActiveConnection()), cfg)
}

func newStore(c *clientv3.Client, route route, leases pb.LeaseClient, cfg Config) *store {
	return &store{client: c, route: route, stream: renewStream{client: leases}, cfg: cfg}
}

// saw checks the header of a linearizable answer. If the revision or the raft term runs backwards
// or the id changes, etcd has lost data, or is another one.
func (s *store) saw(ctx context.Context, h *pb.ResponseHeader) error {
	before := s.last
	s.last = seen{h.ClusterId, h.MemberId, h.RaftTerm, h.Revision}
	switch {
	case h.Revision < before.revision || before.cluster != 0 && h.ClusterId != before.cluster:
		return DataLoss
	case h.RaftTerm >= before.term:
		return nil
	case h.MemberId != before.member && !s.termFell(ctx, before.term):
		s.last.term = before.term
		return nil
	}
	return DataLoss
}

// termFell says whether the term is lower than it was. A member that has caught
// up by a snapshot names an older one than it knows, until it has applied
// something: that a key which is not there is deleted, even where its database is full.
func (s *store) termFell(ctx context.Context, before uint64) bool {
	resp, err := s.client.Delete(ctx, pool.ReleasedKey(s.cfg.Pool))
	return err == nil && resp.Header.RaftTerm < before
}

// grant makes a new lease: its ID, the TTL that was granted, and the term.
func (s *store) grant(ctx context.Context) (lease, error) {
	resp, err := s.client.Grant(ctx, int64(s.cfg.TTL/time.Second))
	if err != nil {
		return lease{}, fmt.Errorf("grant a lease of %v: %w", s.cfg.TTL, err)
	}
	return lease{id: resp.ID, ttl: time.Duration(resp.TTL) * time.Second, term: resp.RaftTerm}, nil
}

// revoke ends the lease, and so the claim under it. That it had ended already is no error.
func (s *store) revoke(ctx context.Context, lease clientv3.LeaseID) error {
	_, err := s.client.Revoke(ctx, lease)
	if errors.Is(err, rpctypes.ErrPermissionDenied) {
		return nil // somebody else's key is under it: it runs out
	}
	if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
		return fmt.Errorf("revoke lease %x: %w", int64(lease), err)
	}
	return nil
}

// isGone says whether a lease is gone. One that has run out but was not revoked yet is not: etcd
// answers with a negative TTL for either, but only for that one with the TTL that was granted.
func (s *store) isGone(ctx context.Context, lease clientv3.LeaseID) (bool, error) {
	resp, err := s.client.TimeToLive(ctx, lease)
	if err != nil {
		return false, fmt.Errorf("ask for the time to live of lease %x: %w", int64(lease), err)
	}
	return resp.TTL < 0 && resp.GrantedTTL == 0, nil
}

// mark leaves the marker of data loss for one TTL.
func (s *store) mark(ctx context.Context) error {
	its, err := s.grant(ctx)
	if err != nil {
		return err
	}
	resp, err := s.client.Put(ctx, pool.MarkerKey(s.cfg.Pool), s.cfg.Owner, clientv3.WithLease(its.id))
	if err != nil {
		return fmt.Errorf("mark the pool: %w", err)
	}
	return s.saw(ctx, resp.Header)
}

// tenures returns the last tenures of name, in the order of time; cut says that there were
// more before. Any goroutine may call it.
func (s *store) tenures(ctx context.Context, name string) (ts []pool.Tenure, cut bool, err error) {
	return pool.Reader(s.client.Do).LastTenures(ctx, s.cfg.Pool, name)
}

// endOp is the operation that records the end of t, if the record is as it was
// when we wrote or read it, and more holds.
func (s *store) endOp(t pool.Tenure, more ...clientv3.Cmp) clientv3.Op {
	key := t.Key(s.cfg.Pool)
	return clientv3.OpTxn(
		append(more, clientv3.Compare(clientv3.ModRevision(key), "=", t.Revision)),
		[]clientv3.Op{clientv3.OpPut(key, t.Value())}, nil)
}

// recordEnd records the end of a tenure, unless its record has changed since it was
// read. Only the name's holder may write the end of another host's tenure: by is its claim, or nil
// if the tenure was our own. Any goroutine may call it.
func (s *store) recordEnd(ctx context.Context, t pool.Tenure, by *Claim) error {
	if t.ID == "" { // it has none
		return nil
	}
	var more []clientv3.Cmp
	if by != nil {
		more = stands(by.key, by.revision, by.lease)
	}
	if _, err := s.client.Do(ctx, s.endOp(t, more...)); err != nil {
		return fmt.Errorf("record the end of a tenure of %s: %w", t.Name, err)
	}
	return nil
}

// release deletes the name of c and records the end of its tenure as one: nobody sees the
// name free and its tenure lasting, or the other way round. Each is left as it is if it is
// not ours any more.
func (s *store) release(ctx context.Context, c *Claim, t pool.Tenure) error {
	ops := []clientv3.Op{clientv3.OpTxn(stands(c.key, c.revision, c.lease), []clientv3.Op{clientv3.OpDelete(c.key)}, nil)}
	if t.ID != "" {
		ops = append(ops, s.endOp(t))
	}
	if _, err := s.client.Txn(ctx).Then(ops...).Commit(); err != nil {
		return fmt.Errorf("release %s: %w", c.name, err)
	}
	return nil
}

// prune deletes the records of name's tenures that ended before a moment, and the oldest
// ones beyond tenuresPerName, some at a time: the next claim goes on. Any goroutine may call
// it.
func (s *store) prune(ctx context.Context, name string, before time.Time) error {
	all := pool.TenuresKey(s.cfg.Pool) + name + "/"
	resp, err := s.client.Get(ctx, all, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByCreateRevision, clientv3.SortAscend), clientv3.WithLimit(prunedAtOnce))
	if err != nil {
		return fmt.Errorf("read the tenures of %s: %w", name, err)
	}
	var deletes []clientv3.Op
	for i, kv := range resp.Kvs {
		t, ok := pool.ReadTenure(s.cfg.Pool, kv)
		if old := !ok || !t.Open() && t.To.Before(before); !old && int64(i) >= resp.Count-tenuresPerName {
			break
		}
		deletes = append(deletes, clientv3.OpDelete(string(kv.Key)))
	}
	if len(deletes) == 0 {
		return nil
	}
	if _, err := s.client.Txn(ctx).Then(deletes...).Commit(); err != nil {
		return fmt.Errorf("prune the tenures of %s: %w", name, err)
	}
	return nil
}

// The bounds of what is kept of a name's past.
const (
	tenuresPerName = 1000
	prunedAtOnce   = 120
)

// isAnswer says whether err is an answer of etcd, rather than a failure to get one.
func isAnswer(err error) bool {
	_, lost := errors.AsType[Loss](err)
	return lost || errors.Is(err, ErrNoFreeName) || errors.Is(err, errNotOurs) || errors.Is(err, errAsked)
}
