package membership

import (
	"context"
	"errors"
	"fmt"
	"slices"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// ErrNoFreeName is the error of Join when all IDs are claimed.
var ErrNoFreeName = errors.New("no free name")

// A Member is a claimed ID with its owner.
type Member struct {
	Key   string // the ID, which is the key in etcd
	Value string // the owner
}

// Join claims the first free one of ids: it puts identifier, which says who
// owns it, at the key in etcd that is the ID as given, under the lease id. The
// caller keeps the lease alive, and revokes it to give the ID back.
//
// Up to 120 IDs are one transaction, and the ID is the first one that is free at the moment of
// the claim. Longer lists are tried 120 at a time, going forward: an ID that is freed after its
// turn is not tried again.
//
// If all IDs are claimed, the error is ErrNoFreeName. After any other error an ID may
// or may not have been claimed: revoke the lease before trying again.
func Join(etcdclient *clientv3.Client, ctx context.Context, id clientv3.LeaseID, identifier string, ids []string) (*Member, error) {
	put := func(r rung) clientv3.Op { return clientv3.OpPut(r.name, identifier, clientv3.WithLease(id)) }
	for turn := range slices.Chunk(ids, namesPerTxn) {
		resp, err := etcdclient.Txn(ctx).Then(ladder(ifAnyFree(turn, ""), put)).Commit()
		if err != nil {
			return nil, fmt.Errorf("claim one of %d names for %q: %w", len(ids), identifier, err)
		}
		if i, _, ok := climbed(resp.Responses[0].GetResponseTxn()); ok {
			return &Member{Key: turn[i], Value: identifier}, nil
		}
	}
	return nil, ErrNoFreeName
}

// Members returns the claimed ones among ids with their owners, in the order of ids and as of one
// moment. It waits for etcd until the client is closed or its context ends.
func Members(etcdclient *clientv3.Client, ids []string) ([]*Member, error) {
	var members []*Member
	var revision int64 // of the first read; the others read the same moment
	for turn := range slices.Chunk(ids, namesPerTxn) {
		gets := make([]clientv3.Op, len(turn))
		for i, id := range turn {
			gets[i] = clientv3.OpGet(id, clientv3.WithRev(revision))
		}
		resp, err := etcdclient.Txn(etcdclient.Ctx()).Then(gets...).Commit()
		if err != nil {
			return nil, fmt.Errorf("read who holds %d names: %w", len(ids), err)
		}
		if revision == 0 {
			revision = resp.Header.Revision
		}
		for _, r := range resp.Responses {
			for _, kv := range r.GetResponseRange().Kvs {
				members = append(members, &Member{Key: string(kv.Key), Value: string(kv.Value)})
			}
		}
	}
	return members, nil
}
